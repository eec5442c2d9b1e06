"""What training leaves and `export` writes: folders that others load without our code, and what they say of themselves."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hybrid_lora.__main__ import main
from hybrid_lora.common.files import read_json, write_json
from hybrid_lora.contracts import allocation, base_model, metrics
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.modeling import load
from hybrid_lora.training import train

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
OBJECTIVE = {
    "algorithm": "sft",
    "corpus": "tiny",
    "sources": ["math"],
    "steps": 2,
    "batch_size": 8,
    "device_batch_size": 8,
    "max_length": 64,
    "learning_rate": {"full": 1e-2, "lora": 5e-2},  # far enough from the base to tell the two apart
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "dtype": "float32",
    "gradient_checkpointing": False,
    "fast_layers": True,
    "validation": {"every": 2, "rows": 8, "metric": "nll"},
    "save_every": 2,
}
PLACEMENTS = {"hybrid": "criterion", "lora": "lora", "lora-ffn": "lora-ffn", "full": "full"}
ADAPTERS = ["hybrid", "lora", "lora-ffn"]
IDS = torch.arange(60).reshape(3, 20)


@pytest.fixture(scope="module")
def work(tmp_path_factory, model_folder, corpus_files):
    """A folder as a checkout has it: results/training/{hybrid,lora,lora-ffn,full}/policy of one tiny base."""
    root = tmp_path_factory.mktemp("exporting")
    listed = modules_file.read(model_folder / "modules.json")
    value = dict.fromkeys(allocation.KEYS) | {"schema_version": 1, "model": listed["model"], "fft": FFT}
    value |= {"probe": "default", "criterion": "hybrid", "overflow": "stop"}
    value |= {"budget": {"unit": "params", "ratio": 0.1, "used": 0.0987}, "counts": {"fft": 3, "lora": 11, "candidates": 14}}
    names = [m["module"] for m in listed["modules"] if m["module"] not in FFT]
    value["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0, "names": names}
    allocation.write(root / "a.json", value)
    for run, placement in PLACEMENTS.items():
        settings = {"run": run, "seed": 0, "placement": placement, "objective": OBJECTIVE, "grading": {}}
        settings["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0}
        folder = root / "results/training" / run
        train.run(
            argparse.Namespace(
                settings=settings,
                model=model_folder,
                train=corpus_files[0],
                val=corpus_files[1],
                allocation=[root / "a.json"] if run == "hybrid" else [],
                out=folder / "policy",
                history=folder / "history.parquet",
                trainable=folder / "trainable.json",
                samples=folder / "samples.parquet",
                state=root / "state" / run,
                workers=1,
                programs=[],
            )
        )
    return root


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    monkeypatch.chdir(work)


def policy(work, run):
    return work / "results/training" / run / "policy"


def front(folder):
    return base_model.front_matter(folder / "README.md")


WITHOUT_US = """
import importlib.util, os, sys
sys.path = [path for path in sys.path if not os.path.isdir(os.path.join(path, "hybrid_lora"))]  # an editable installation's
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
assert importlib.util.find_spec("hybrid_lora") is None, sys.path
"""


def alone(code, *arguments):
    """Run `code` in a Python that cannot import our package; what it prints."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    command = [sys.executable, "-c", WITHOUT_US + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


ADAPTER_LOGITS = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2]).eval()
torch.save(model(input_ids=torch.arange(60).reshape(3, 20)).logits.detach(), sys.argv[3])
names = [name for name, _ in model.named_parameters()]
print(sum(".lora_A." in name for name in names), sum(".modules_to_save." in name for name in names))
"""
PLAIN_LOGITS = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
words = AutoTokenizer.from_pretrained(sys.argv[1])
assert words.chat_template and words("Compute 1+1.")["input_ids"]
torch.save(model(input_ids=torch.arange(60).reshape(3, 20)).logits.detach(), sys.argv[2])
print(type(model).__name__, model.dtype)
"""


@pytest.mark.parametrize(("run", "placed"), [("hybrid", "11 5"), ("lora", "14 0"), ("lora-ffn", "6 14")])
def test_round_trip_without_our_code(work, tmp_path, model_folder, run, placed):
    """Adapter by PEFT alone and merged folder by transformers alone: equal logits, both far from the base's."""
    printed = alone(ADAPTER_LOGITS, model_folder, policy(work, run), tmp_path / "adapter.pt")
    assert printed.split("\n")[0] == placed  # two of the three in full have a bias
    assert main(["export", "--run", run, "--merged", "--out", str(tmp_path / "merged")]) == 0
    assert alone(PLAIN_LOGITS, tmp_path / "merged", tmp_path / "merged.pt").split() == ["Qwen2ForCausalLM", "torch.float32"]
    one, two = torch.load(tmp_path / "adapter.pt"), torch.load(tmp_path / "merged.pt")
    torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)
    original = load.model(model_folder).eval()(input_ids=IDS).logits
    assert (one - original).abs().max() > 0.01


def test_full_fine_tuning_is_a_plain_folder_as_it_is_and_exported(work, tmp_path):
    assert main(["export", "--run", "full", "--out", str(tmp_path / "out")]) == 0
    alone(PLAIN_LOGITS, policy(work, "full"), tmp_path / "policy.pt")
    alone(PLAIN_LOGITS, tmp_path / "out", tmp_path / "out.pt")
    assert torch.equal(torch.load(tmp_path / "policy.pt"), torch.load(tmp_path / "out.pt"))
    assert front(tmp_path / "out")["library_name"] == front(policy(work, "full"))["library_name"] == "transformers"


@pytest.mark.parametrize("run", ["hybrid", "full"])
def test_tied_embeddings_stay_tied(tmp_path, run):
    main(["export", "--run", run, "--merged", "--out", str(tmp_path / "out")])
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not [name for name in names if "lora" in name or "base_layer" in name or "modules_to_save" in name]


@pytest.mark.parametrize("run", ["hybrid", "full"])
def test_bfloat16_is_float32_rounded_once(tmp_path, run):
    main(["export", "--run", run, "--merged", "--out", str(tmp_path / "exact")])
    main(["export", "--run", run, "--merged", "--dtype", "bfloat16", "--out", str(tmp_path / "half")])
    exact, half = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "half"))
    assert {t.dtype for t in exact.values()} == {torch.float32} and {t.dtype for t in half.values()} == {torch.bfloat16}
    assert all(torch.equal(half[name], exact[name].bfloat16()) for name in exact)
    assert read_json(tmp_path / "half/config.json")["dtype"] == "bfloat16"


def test_exact_names_are_kept(work, model_folder):
    """More than 20 targets make PEFT write endings; ours are the model's names, in its order."""
    every = [m["module"] for m in modules_file.read(model_folder / "modules.json")["modules"]]
    config = read_json(policy(work, "hybrid") / "adapter_config.json")
    assert config["target_modules"] == [name for name in every if name not in FFT]
    assert set(config["modules_to_save"]) == set(FFT)
    about = read_json(policy(work, "hybrid") / "manifest.json")["placement"]
    assert about["lora"] == config["target_modules"] and set(about["fft"]) == set(FFT)
    assert read_json(policy(work, "lora") / "adapter_config.json")["target_modules"] == every


def test_many_names_are_exact_though_peft_shortens_them(tmp_path, corpus_files):
    """A model of four layers has 28 candidates, of which PEFT makes endings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.modeling import candidates, hybrid
    from hybrid_lora.training import publishing, validation

    words = AutoTokenizer.from_pretrained(policy_tokenizer())
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(words), num_key_value_heads=1, **shape))
    names = [c.module for c in candidates.find(model)]
    from peft import get_peft_model

    fft = ["model.layers.3.mlp.up_proj"]
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "names": [n for n in names if n not in fft]}
    wrapped = get_peft_model(model, hybrid.lora_config(lora, fft))
    validation.save_policy(wrapped, tmp_path)
    assert set(read_json(tmp_path / "adapter_config.json")["target_modules"]) != set(lora["names"])  # the trap
    placed = publishing._placement(tmp_path, None)
    assert placed["lora"] == lora["names"] and placed["fft"] == fft


def policy_tokenizer():
    return "results/training/full/policy"


def test_card_of_the_policy(work, model_folder):
    folder = policy(work, "hybrid")
    found = front(folder)
    assert found["base_model"] == "tiny" and found["library_name"] == "peft" and found["license"] == "unknown"
    assert found["pipeline_tag"] == "text-generation" and {"hybrid-lora", "sft", "lora", "peft"} <= set(found["tags"])
    text = (folder / "README.md").read_text()
    counts = read_json(work / "results/training/hybrid/trainable.json")
    for expected in (
        f"| in full | 3 | {counts['fft']:,} |",
        f"| LoRA | 11 | {counts['lora']:,} |",
        "criterion `hybrid` (probe `default`) under a budget of 0.1 in unit `params`, of which 0.0987 is used",
        "In full, by type: 1 q, 1 v, 1 down.",
        "Corpus `tiny`, rows of math",
        "  algorithm: sft",
        "vLLM takes no adapter with `modules_to_save`",
    ):
        assert expected in text, expected
    assert "modules_to_save" not in (policy(work, "lora") / "README.md").read_text()
    assert "| in full | all |" in (policy(work, "full") / "README.md").read_text()


@pytest.mark.parametrize("run", PLACEMENTS)
def test_no_absolute_path_is_published(work, tmp_path, run):
    main(["export", "--run", run, "--out", str(tmp_path / "a")])
    main(["export", "--run", run, "--merged", "--out", str(tmp_path / "b")])
    texts = [p for folder in (tmp_path / "a", tmp_path / "b") for p in folder.iterdir() if p.suffix in (".json", ".md", ".jinja")]
    texts += [policy(work, run) / "README.md", *policy(work, run).glob("*config.json")]
    assert len(texts) > 8
    for path in texts:
        assert str(work.parent) not in path.read_text() and "/tmp" not in path.read_text(), path


def test_hub_base_data_and_licence_are_named(work, tmp_path, model_folder, corpus_files, monkeypatch):
    """A base from the hub, with its own card, and a corpus from the hub, as their stages leave them."""
    from hybrid_lora.training import publishing

    base = tmp_path / "models/qwen"
    shutil.copytree(model_folder, base)
    (base / "README.md").write_text(
        "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: https://x/LICENSE\n---\n# Q\n"
    )
    listed = read_json(base / "modules.json")
    listed["model"] |= {"id": "Qwen/Qwen2.5-3B-Instruct", "revision": "aa8e72"}
    write_json(base / "modules.json", listed)
    train_file = tmp_path / "train.parquet"
    shutil.copyfile(corpus_files[0], train_file)
    hub = {"repo": "open-r1/Mixture-of-Thoughts", "revision": "e55fa2", "config": "all", "split": "train"}
    made = {
        "settings": {"format": "mixture-of-thoughts", "seed": 0, "data": "hub", "hub": hub},
        "rows": 64,
        "outputs": {"t": "ab"},
    }
    write_json(f"{train_file}.manifest.json", made)
    folder = tmp_path / "policy"
    shutil.copytree(policy(work, "lora"), folder)
    about = read_json(folder / "manifest.json")
    found = publishing.finish(folder, base, train_file, None, about)
    shown = front(folder)
    assert shown["base_model"] == "Qwen/Qwen2.5-3B-Instruct" and shown["datasets"] == ["open-r1/Mixture-of-Thoughts"]
    wanted = {"license": "other", "license_name": "qwen-research", "license_link": "https://x/LICENSE"}
    assert {k: v for k, v in shown.items() if k.startswith("license")} == wanted
    config = read_json(folder / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen2.5-3B-Instruct", "aa8e72")
    text = (folder / "README.md").read_text()
    assert "- revision: `e55fa2`" in text and 'revision="aa8e72"' in text
    PeftModel.from_pretrained(load.model(model_folder), folder)  # still loads
    about["settings"]["objective"] |= {"code_corpus": "leetcode", "sources": ["math", "code"]}
    programs = tmp_path / "programs.parquet"
    write_json(
        f"{programs}.manifest.json", made | {"settings": made["settings"] | {"hub": hub | {"repo": "newfacade/LeetCodeDataset"}}}
    )
    publishing.finish(folder, base, train_file, None, about, programs)
    assert front(folder)["datasets"] == ["open-r1/Mixture-of-Thoughts", "newfacade/LeetCodeDataset"]
    text = (folder / "README.md").read_text()
    assert "Corpus `tiny`, rows of math, code:" in text and "Corpus `leetcode`, rows of code, with tests:" in text
    assert "- repo: `newfacade/LeetCodeDataset`" in text
    write_json(folder / "manifest.json", about | found)
    assert main(["export", "--policy", str(folder), "--model", str(base), "--license", "mit", "--out", str(tmp_path / "o")]) == 0
    shown = front(tmp_path / "o")
    assert shown["license"] == "mit" and "license_name" not in shown


def test_a_fetched_model_brings_its_licence(tmp_path, model_folder):
    from hybrid_lora.model import fetch

    shutil.copytree(model_folder, tmp_path / "source")
    fetch.run({"source": "local", "path": str(tmp_path / "source")}, tmp_path / "plain")
    assert base_model.license_of(tmp_path / "plain") == {"license": "unknown"}
    (tmp_path / "source/LICENSE").write_text("Mine.")
    fetch.run({"source": "local", "path": str(tmp_path / "source")}, tmp_path / "file")
    assert base_model.license_of(tmp_path / "file") == {"license": "other", "license_link": "LICENSE"}
    (tmp_path / "source/README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    fetch.run({"source": "local", "path": str(tmp_path / "source")}, tmp_path / "card")
    assert base_model.describe(tmp_path / "card")["license"] == {"license": "apache-2.0"}
    assert base_model.describe(tmp_path / "card")["id"] == "source"  # never the path


def test_results_go_into_the_exported_card(work, tmp_path):
    record = {"metric": "pass@1", "value": 0.325, "low": 0.26, "high": 0.391, "n": 200, "k": 1, "samples": 1}
    metrics.write(work / "results/evaluation/lora/math-500/metrics.json", record | {"truncated": 0, "unjudged": 0})
    main(["export", "--run", "lora", "--out", str(tmp_path / "out")])
    assert "| math-500 | pass@1 | 32.5 % | 26.0 to 39.1 | 200 |" in (tmp_path / "out/README.md").read_text()
    main(["export", "--run", "hybrid", "--out", str(tmp_path / "none")])
    assert "## Results" not in (tmp_path / "none/README.md").read_text()


def test_a_card_is_yaml_that_the_hub_reads(work):
    text = (policy(work, "hybrid") / "README.md").read_text()
    block = text.split("---\n")[1]
    assert isinstance(yaml.safe_load(block), dict)
    from huggingface_hub import ModelCardData, RepoCard

    card = RepoCard(text)
    assert isinstance(card.data, ModelCardData | object) and card.data.to_dict()["library_name"] == "peft"


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    return error


def test_what_is_refused_is_one_line(work, tmp_path, capsys, model_folder):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    assert "exists; nothing is overwritten" in refused(capsys, "--run", "lora", "--merged", "--out", taken)
    assert (taken / "mine.txt").read_text() == "keep"
    error = refused(capsys, "--run", "lor", "--out", tmp_path / "x")
    assert "results/training/lor/policy: no trained policy" in error and "full, hybrid, lora, lora-ffn" in error
    assert "an adapter keeps its float32" in refused(capsys, "--run", "lora", "--dtype", "bfloat16", "--out", tmp_path / "x")
    missing = refused(capsys, "--run", "lora", "--model", tmp_path, "--out", tmp_path / "x")
    assert "not the folder of the base model tiny" in missing
    other = tmp_path / "other"
    other.mkdir()
    for file in model_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    about = json.loads((other / "manifest.json").read_text())
    about["outputs"]["model.safetensors"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(about))
    assert "other weights than" in refused(capsys, "--run", "lora", "--model", other, "--out", tmp_path / "x")
    assert not list(tmp_path.glob(".*.tmp")) and not (tmp_path / "x").exists()


def test_damaged_folders_are_one_line(work, tmp_path, capsys, model_folder):
    for run, name in (("lora", "adapter_model.safetensors"), ("full", "model.safetensors")):
        broken = tmp_path / run
        shutil.copytree(policy(work, run), broken)
        os.truncate(broken / name, 1000)
        for merged in ([], ["--merged"]):
            error = refused(capsys, "--policy", broken, *merged, "--out", tmp_path / "x")
            assert f"{broken / name}: damaged, its SHA-256 is not the one in manifest.json" in error
    (broken / "model.safetensors").unlink()
    assert "model.safetensors: no such file" in refused(capsys, "--policy", broken, "--out", tmp_path / "x")
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    os.truncate(base / "model.safetensors", 1000)
    error = refused(capsys, "--run", "lora", "--model", base, "--merged", "--out", tmp_path / "x")
    assert f"{base}: cannot be loaded (" in error
    (tmp_path / "file").write_text("")
    assert "file: cannot be written (" in refused(capsys, "--run", "lora", "--out", tmp_path / "file/x")
    assert not list(tmp_path.glob(".*.tmp")) and not (tmp_path / "x").exists()


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    from hybrid_lora.export import folder

    def fails(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_describe", fails)
    assert main(["export", "--run", "lora", "--merged", "--out", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())
