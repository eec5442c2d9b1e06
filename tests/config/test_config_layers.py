"""Laying files over one another as Snakemake does, finding a key's file, local paths, and the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load, paths
from hybrid_lora.config.__main__ import main

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("overlay", ["demo.yaml", "tiny.yaml", "gsm8k.yaml"])
def test_merge_is_snakemakes(overlay):
    update_config = pytest.importorskip("snakemake.utils").update_config
    files = [REPO / "config/config.yaml", REPO / "config" / overlay]
    theirs, ours = {}, {}
    for file in files:
        update_config(theirs, layers.read_yaml(file))
        ours = layers.merge(ours, layers.read_yaml(file))
    assert ours == theirs


def test_merge_keeps_entries_apart_that_an_anchor_joins(tmp_path):
    (tmp_path / "a.yaml").write_text("x: &x {rate: {full: 1, lora: 2}}\ny: {<<: *x}\n")
    merged = layers.merge(layers.read_yaml(tmp_path / "a.yaml"), {"y": {"rate": {"full": 9}}})
    assert merged == {"x": {"rate": {"full": 1, "lora": 2}}, "y": {"rate": {"full": 9, "lora": 2}}}


def test_merge_replaces_lists_and_changes_neither_side():
    below, above = {"a": {"b": [1, 2], "c": 3}}, {"a": {"b": [4]}}
    assert layers.merge(below, above) == {"a": {"b": [4], "c": 3}}
    assert (below, above) == ({"a": {"b": [1, 2], "c": 3}}, {"a": {"b": [4]}})


def test_load_leaves_the_values_as_they_are():
    values = layers.read_yaml(REPO / "config/config.yaml")
    del values["grading"]
    before = layers.merge({}, values)
    assert load(values, ["config/config.yaml"], REPO).values["grading"]["math_timeout_s"] == 5
    assert values == before


@pytest.mark.parametrize("order", [["config/config.yaml", "over.yaml"], ["over.yaml", "config/config.yaml"]])
def test_origin_is_the_file_on_top(tmp_path, order):
    """Snakemake lists the Snakefile's own configfile last though it lies at the bottom."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("a: {b: 1, c: 2}\n")
    (tmp_path / "over.yaml").write_text("a: {b: 1}\n")
    origin = layers.Origin({"a": {"b": 1, "c": 2, "d": 3}}, [tmp_path / name for name in order], tmp_path)
    assert origin.of(("a", "b")) == "over.yaml"
    assert origin.of(("a", "c")) == "config/config.yaml"
    assert origin.of(("a", "d")) == "--config"
    assert origin.of(("a", "missing")) == "over.yaml"
    (tmp_path / "over.yaml").write_text("a: {b: 7}\n")  # and back again by --config
    assert layers.Origin({"a": {"b": 1}}, [tmp_path / name for name in order], tmp_path).of(("a", "b")) == "--config"


@pytest.mark.parametrize(
    ("text", "phrase"),
    [("a: [1\n", "c.yaml:2: not YAML"), ("- a\n", "holds no keys"), ("", "holds no keys")],
)
def test_files_that_are_no_configuration(tmp_path, text, phrase):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=r"c\.yaml") as caught:
        layers.read_yaml(tmp_path / "c.yaml")
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_command_line():
    with pytest.raises(UserError, match=r"^none\.yaml: no such file$"):
        layers.read_yaml("none.yaml")
    with pytest.raises(UserError, match="is not key=value"):
        layers.command_line(["runs"])
    assert layers.command_line(["a=1", "b={c: [x]}", "b={d: y}"]) == {"a": 1, "b": {"c": ["x"], "d": "y"}}


def test_data_file_is_looked_up_in_data_dir_then_beside_the_snakefile(tmp_path):
    (tmp_path / "data").mkdir()
    assert paths.data_file("a.jsonl", "data", tmp_path) is None
    (tmp_path / "a.jsonl").touch()
    assert paths.data_file("a.jsonl", "data", tmp_path) == tmp_path / "a.jsonl"
    (tmp_path / "data/a.jsonl").touch()
    assert paths.data_file("a.jsonl", "data", tmp_path) == tmp_path / "data/a.jsonl"
    assert paths.data_file(str(tmp_path / "a.jsonl"), "data", tmp_path) == tmp_path / "a.jsonl"
    assert paths.data_file("hub", "data", tmp_path) is None


def test_check_command(capsys, monkeypatch):
    monkeypatch.chdir(REPO)
    assert main(["check", "--configfile", "config/demo.yaml", "--config", "runs=config/demo-all.tsv"]) == 0
    assert capsys.readouterr().out.startswith("10 runs, 6 trained, of demo, on math-500, aime-24")
    assert main(["check", "--config", "runs=none.tsv"]) == 2
    assert capsys.readouterr().err == "hybrid_lora: error: --config: runs: no such file: none.tsv\n"


def test_config_imports_nothing_heavy():
    command = (
        "import sys, hybrid_lora.config; print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=os.environ, check=True)
    assert run.stdout.strip() == "[]"
