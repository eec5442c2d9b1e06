"""The model card of a policy: base, data, placement, results and licence, and nothing of this machine."""

import shutil

import pytest
import yaml
from exported import PLACEMENTS, front, policy
from huggingface_hub import RepoCard
from peft import PeftModel

from hybrid_lora.__main__ import main
from hybrid_lora.common.files import read_json, sha256_file, write_json
from hybrid_lora.contracts import base_model, metrics
from hybrid_lora.modeling import load


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
    (tmp_path / "file/LICENSE").rename(tmp_path / "file/LICENSE.txt")
    assert base_model.license_of(tmp_path / "file") == {"license": "other", "license_link": "LICENSE.txt"}
    (tmp_path / "source/README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    fetch.run({"source": "local", "path": str(tmp_path / "source")}, tmp_path / "card")
    assert base_model.describe(tmp_path / "card")["license"] == {"license": "apache-2.0"}
    assert base_model.describe(tmp_path / "card")["id"] == "source"  # never the path


def test_results_go_into_the_exported_card(work, tmp_path):
    record = {"metric": "pass@1", "value": 0.325, "low": 0.26, "high": 0.391, "n": 200, "k": 1, "samples": 1}
    folder = work / "results/evaluation/lora/math-500"
    metrics.write(folder / "metrics.json", record | {"truncated": 0, "unjudged": 0})
    for sampled in ("lora", "hybrid"):  # whose completions these are
        path = f"results/training/{sampled}/policy/manifest.json"
        write_json(folder / "completions.parquet.manifest.json", {"inputs": {"policy": {path: sha256_file(work / path)}}})
        main(["export", "--run", "lora", "--out", str(tmp_path / sampled)])
        shown = "| math-500 | pass@1 | 32.5 % | 26.0 to 39.1 | 200 |" in (tmp_path / sampled / "README.md").read_text()
        assert shown == (sampled == "lora")
    shutil.rmtree(work / "results/evaluation")
    main(["export", "--run", "hybrid", "--out", str(tmp_path / "none")])
    assert "## Results" not in (tmp_path / "none/README.md").read_text()


def test_a_card_is_yaml_that_the_hub_reads(work):
    text = (policy(work, "hybrid") / "README.md").read_text()
    block = text.split("---\n")[1]
    assert isinstance(yaml.safe_load(block), dict)
    assert RepoCard(text).data.to_dict()["library_name"] == "peft"
