"""What reruns after each tweak of tweaks.tsv, by dry runs on finished results, some by real reruns: nothing else may."""

import json
import os
import re
import shutil

import pytest
import tweaking
from samples import conversations
from test_travel import copied, ours

pytestmark = pytest.mark.matrix

TWEAKS = tweaking.tweaks()
EXPECTED = tweaking.expected()
# What the adopted copy is asked: its metadata is compared record by record elsewhere, so a part of the table is enough.
ADOPTED = list(TWEAKS)[:: 1 if os.environ.get("HYBRID_LORA_FULL_TESTS") else 6]
REAL = [name for name, tweak in TWEAKS.items() if tweak.get("real")]


def hub_snapshot(folder, revision, seed):
    """A model in the hub's cache below `folder`, as huggingface_hub leaves it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.model import tokenizer

    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words), max_position_embeddings=512, tie_word_embeddings=True, num_key_value_heads=2, **shape, **ids
        )
    )
    out = folder / "hub/hub/models--test--tiny/snapshots" / revision
    for part in (model, words):
        part.save_pretrained(out)


@pytest.fixture(scope="session")
def everything(finished, tmp_path_factory):
    """A copy of the finished tiny checkout in which every rule has run."""
    folder = tmp_path_factory.mktemp("every rule") / "checkout"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "own-data").mkdir(exist_ok=True)
    rows = [
        {"unique_id": f"own/{i}", "problem": f"What is {i} + {i}?", "answer": str(2 * i), "solution": "It is. " * 60_000}
        for i in range(4)
    ]
    (folder / "own-data/own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed, revision in enumerate(("1" * 40, "2" * 40)):
        hub_snapshot(folder, revision, seed)
    tweaking.run(folder)
    return folder


def test_the_table_has_every_tweak_and_every_rule():
    header = tweaking.TABLE.read_text().splitlines()[0].split("\t")
    assert header == ["tweak", *tweaking.RULES]
    assert list(EXPECTED) == list(TWEAKS)
    assert len(TWEAKS) >= 30 and len(REAL) >= 8
    never = [rule for rule in tweaking.RULES if not any(rule in row for row in EXPECTED.values())]
    assert not never


@pytest.mark.parametrize("name", TWEAKS)
def test_dry_run(everything, name):
    with tweaking.made(TWEAKS[name], everything) as (folder, arguments, options):
        output = tweaking.run(folder, "-n", *arguments, **options).stdout
    assert tweaking.jobs(output) == EXPECTED[name]


@pytest.fixture(scope="session")
def everything_adopted(everything, tmp_path_factory):
    """The same in another place, without `.snakemake`, adopted."""
    folder = copied(everything, tmp_path_factory.mktemp("every rule elsewhere") / "checkout")
    # What the tiny configuration alone evaluates is left out: the adapter that it was sampled from is another here.
    assert "adopted" in ours(folder, "adopt", "--configfile", *tweaking.CONFIGS)
    assert "Nothing to be done" in tweaking.run(folder, "-n").stdout
    return folder


@pytest.mark.parametrize("name", ADOPTED)
def test_dry_run_after_adopting(everything_adopted, name):
    with tweaking.made(TWEAKS[name], everything_adopted) as (folder, arguments, options):
        output = tweaking.run(folder, "-n", *arguments, **options).stdout
    assert tweaking.jobs(output) == EXPECTED[name]


def test_all_tweaks_taken_back_leave_nothing_to_do(everything):
    assert "Nothing to be done" in tweaking.run(everything, "-n").stdout


@pytest.fixture(scope="module")
def played(everything):
    """A copy for real reruns."""
    folder = everything.with_name("played")
    shutil.copytree(everything, folder, symlinks=True)
    return folder


@pytest.mark.parametrize("name", REAL)
def test_real_rerun(played, name):
    """The jobs that run are those of the table; then nothing is left to do, and taking the tweak back is a tweak again."""
    with tweaking.made(TWEAKS[name], played) as (folder, arguments, options):
        output = tweaking.run(folder, *arguments, **options).stdout
        assert tweaking.finished_jobs(output) == EXPECTED[name]
        assert "Nothing to be done" in tweaking.run(folder, "-n", *arguments, **options).stdout
    assert not re.search("Traceback", output)
    shutil.rmtree(played)
    shutil.copytree(played.with_name("checkout"), played, symlinks=True)
