"""What the selection refuses: score files and module lists that are broken or of another model, bad settings; one line each."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selections import RANKS, rows_of, run, write_scores

from hybrid_lora.allocation.__main__ import main
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:3], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "params": 11}], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "layer": 1}], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "type": "down"}], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "module": "x"}], "does not agree"),
        (lambda r: [], "module 'model.layers.0.k' does not agree"),
        (lambda r: [*r[:3], {**r[3], "rank": 1}], "column 'rank' must hold 1..4, each once"),
        (lambda r: [*r[:3], {**r[3], "rank": 5}], "column 'rank' must hold 1..4, each once"),
        (lambda r: [*r, r[0]], "listed twice"),
        (lambda r: [*r[:3], {**r[3], "rank": None}], "column 'rank' of module 'model.layers.0.o' is empty"),
        (lambda r: [*r[:3], {**r[3], "params": None}], "column 'params' of module 'model.layers.0.o' is empty"),
        (lambda r: [*r[:3], {**r[3], "module": None}], "column 'module' of a row is empty"),
        (lambda r: [*r[:3], {**r[3], "score": None}], "column 'score' of module 'model.layers.0.o' is empty"),
        (lambda r: [*r[:3], {**r[3], "score": float("nan")}], "column 'score' of module 'model.layers.0.o' is not a number"),
    ],
)
def test_scores_that_do_not_fit(files, change, message):
    write_scores(files, change(rows_of([10, 20, 60, 10], RANKS)))
    assert refused(files).startswith(f"{files}/s.parquet: ")
    assert message in refused(files)


def refused(folder, **change):
    """The one line with which the selection refuses; nothing is written."""
    with pytest.raises(UserError) as error:
        run(folder, **change)
    assert "\n" not in str(error.value) and not (folder / "a.json").exists()
    return str(error.value)


def test_infinite_scores_are_numbers(files):
    """mu / sigma is infinite where a module is perfectly steady."""
    rows = rows_of([10, 20, 60, 10], RANKS)
    write_scores(files, [*rows[:3], {**rows[3], "score": float("inf")}])
    assert run(files)["fft"] == ["model.layers.0.k", "model.layers.0.q"]


def test_truncated_foreign_and_missing_score_files(files):
    path = files / "s.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "s.parquet: not a readable Parquet file" in refused(files)
    path.write_bytes(b"")
    assert "s.parquet: not a readable Parquet file" in refused(files)
    pq.write_table(pa.table({"id": ["a"], "answer": ["b"]}), path)
    assert "column 'module' is missing; not a file of the scores stage (has id, answer)" in refused(files)
    path.write_bytes(whole)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["rank"]), path)
    assert "column 'rank' is missing" in refused(files)
    pq.write_table(table.set_column(7, "rank", table["rank"].cast(pa.float64())), path)
    assert "column 'rank' has type double, the scores stage writes int32" in refused(files)
    pq.write_table(table.replace_schema_metadata(None), path)
    assert "metadata key 'probe' is missing; not a file of the scores stage" in refused(files)
    path.unlink()
    assert "s.parquet: no such file" in refused(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["modules"][3].pop("out_features"), "key 'out_features' of a module is missing"),
        (lambda m: m["modules"][3].update(type="qkv"), "key 'type' of module 'model.layers.0.o' is 'qkv'; allowed: q, k, v"),
        (lambda m: m["modules"].clear(), "key 'modules' holds no modules"),
        (lambda m: m.update(modules={}), "key 'modules' holds no modules"),
        (lambda m: m.pop("model"), "key 'model' is missing"),
        (lambda m: m["modules"].append(m["modules"][0]), "module 'model.layers.0.q' is listed twice"),
    ],
)
def test_broken_module_list(files, change, message):
    value = json.loads((files / "modules.json").read_text())
    change(value)
    (files / "modules.json").write_text(json.dumps(value))
    assert refused(files).startswith(f"{files}/modules.json: ")
    assert message in refused(files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "percent"}, "key 'unit' is 'percent'; allowed: params, modules, absolute"),
        ({"overflow": "halt"}, "key 'overflow' is 'halt'; allowed: stop, skip"),
        ({"amount": 0}, "key 'amount' is 0; allowed: a share above 0 and at most 1"),
        ({"amount": 1.5}, "key 'amount' is 1.5; allowed: a share"),
        ({"amount": "0.1"}, "key 'amount' is '0.1'; allowed: a share"),
        ({"amount": float("nan")}, "key 'amount' is nan"),
        ({"amount": True}, "key 'amount' is True"),
        ({"unit": "absolute", "amount": 0.5}, "key 'amount' is 0.5; allowed: a number of parameters, 1 or more"),
        ({"lora": {"alpha": 8}}, "key 'lora.rank' is None; allowed: 1, 2, ..."),
        ({"ratio": 0.1}, "unknown key 'ratio'; allowed: unit, amount, overflow, lora"),
    ],
)
def test_bad_settings(files, change, message):
    assert message in refused(files, **change)


def test_command_prints_one_line(files, capsys):
    paths = ["--scores", str(files / "s.parquet"), "--modules", str(files / "modules.json"), "--out", str(files / "a.json")]
    assert main(["select", *paths, "--settings", '{"unit": "params"}']) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "key 'amount' is missing; needed are unit, amount, overflow, lora" in said


def test_reader_refuses_overlap_and_foreign_files(files):
    run(files)
    text = (files / "a.json").read_text()
    (files / "a.json").write_text(text.replace('"model.layers.0.v"', '"model.layers.0.q"'))
    with pytest.raises(UserError, match="in both fft and lora"):
        allocation.read(files / "a.json")
    (files / "a.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="not a JSON file"):
        allocation.read(files / "a.json")
    (files / "a.json").write_text("[]")
    with pytest.raises(UserError, match="'schema_version' is missing"):
        allocation.read(files / "a.json")
