"""Every row of config/runs.tsv trains, through the rules: the paper's Tables 1 and 2, on a tiny model and for two steps."""

import csv
import json

import pytest
import yaml
from safetensors.torch import load_file
from samples import tiny_model
from tests_workflow import copy_checkout, snakemake

pytestmark = pytest.mark.matrix
CORPUS = "mixture-of-thoughts"


def small(folder):
    """tiny.yaml's sizes under the names that config.yaml and runs.tsv use; the runs table stays the paper's."""
    tiny = yaml.safe_load((folder / "config/tiny.yaml").read_text())
    del tiny["runs"]
    del tiny["models"]
    tiny["corpora"] = {CORPUS: {**tiny["corpora"]["tiny"], "validation_rows": 16}}
    for entry in (*tiny["probes"].values(), *tiny["objectives"].values()):
        entry["corpus"] = CORPUS
    (folder / "config/small.yaml").write_text(yaml.safe_dump(tiny))
    main = yaml.safe_load((folder / "config/config.yaml").read_text())
    main["models"] = {"qwen2.5-1.5b": {"source": "local", "path": "models/tiny"}}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(main))


def test_every_row_trains(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    tiny_model(folder / "models/tiny")
    small(folder)
    snakemake(folder, "--rerun-incomplete", "train", config="config/small.yaml")
    check(folder)


def check(folder):
    """Objective and placement of every run are those of its row."""
    with (folder / "config/runs.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["objective"] != "-"]
    assert len(rows) == 19
    for row in rows:
        made = folder / "results/training" / row["run"]
        about = json.loads((made / "policy/manifest.json").read_text())
        counts = json.loads((made / "trainable.json").read_text())
        assert about["settings"]["objective"]["algorithm"] == row["objective"]
        if row["method"] == "full-ft":
            assert counts["total"] == counts["all"]
            continue
        names = load_file(made / "policy/adapter_model.safetensors")
        in_full = {name.rsplit(".", 1)[0].removeprefix("base_model.model.") for name in names if ".lora_" not in name}
        if row["method"] == "lora-ffn":
            assert in_full == {f"model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qkvo"}
        elif row["method"] == "lora":
            assert not in_full
        else:
            chosen = json.loads((folder / f"results/allocation/qwen2.5-1.5b.default.{row['method']}.params-0.1.json").read_text())
            assert in_full == set(chosen["fft"]) != set()
