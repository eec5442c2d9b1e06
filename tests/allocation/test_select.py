"""Greedy selection: cases by hand, properties, bad input."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_lora.allocation import select as stage
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation, modules, scores
from hybrid_lora.contracts.modules import TYPES


def rows_of(params, ranks=None):
    return [
        {"module": f"model.layers.{i // 7}.{TYPES[i % 7]}", "layer": i // 7, "type": TYPES[i % 7], "params": p, "rank": r}
        for i, (p, r) in enumerate(zip(params, ranks or range(1, len(params) + 1)))
    ]


@pytest.mark.parametrize(
    ("unit", "amount", "overflow", "expected", "used"),
    [
        ("params", 0.5, "stop", [0, 1], 0.3),  # 10 + 20 fit under 50, 60 does not: stop
        ("params", 0.5, "skip", [0, 1, 3], 0.4),  # 60 is skipped, 10 fits
        ("params", 1.0, "stop", [0, 1, 2, 3], 1.0),
        ("params", 0.05, "stop", [], 0.0),
        ("modules", 0.5, "stop", [0, 1], 0.5),
        ("modules", 0.49, "stop", [0], 0.25),
        ("absolute", 90, "stop", [0, 1, 2], 90),
        ("absolute", 89, "stop", [0, 1], 30),
    ],
)
def test_by_hand(unit, amount, overflow, expected, used):
    rows = rows_of([10, 20, 60, 10])
    names, total = stage.select(rows, unit, amount, overflow)
    assert names == [rows[i]["module"] for i in expected]
    assert total == pytest.approx(used)


def test_whole_shares_are_exact():
    """0.29 * 100 is 28.999999999999996 in floating point."""
    names, _ = stage.select(rows_of([1] * 100), "modules", 0.29, "stop")
    assert len(names) == 29


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    params=st.lists(st.integers(1, 10**9), min_size=1, max_size=60),
    unit=st.sampled_from(["params", "modules", "absolute"]),
    overflow=st.sampled_from(["stop", "skip"]),
)
def test_properties(data, params, unit, overflow):
    """Never over budget, greedy, independent of the order of rows."""
    ranks = data.draw(st.permutations(range(1, len(params) + 1)))
    rows = rows_of(params, ranks)
    amount = data.draw(st.integers(1, 2 * sum(params))) if unit == "absolute" else data.draw(st.floats(0.001, 1.0))
    names, used = stage.select(rows, unit, amount, overflow)
    size = {r["module"]: 1 if unit == "modules" else r["params"] for r in rows}
    limit = Fraction(str(amount)) * (1 if unit == "absolute" else sum(size.values()))
    total = sum(size[n] for n in names)
    assert total <= limit
    assert used == (total if unit == "absolute" else total / sum(size.values()))
    assert len(set(names)) == len(names)
    order = sorted(rows, key=lambda r: r["rank"])
    chosen = [r["module"] for r in order if r["module"] in names]
    assert chosen == names
    if overflow == "stop" and len(names) < len(rows):
        assert names == [r["module"] for r in order[: len(names)]]
        assert total + size[order[len(names)]["module"]] > limit
    if overflow == "skip":
        running = 0
        for r in order:  # whoever is left out did not fit at his turn
            if r["module"] in names:
                running += size[r["module"]]
            else:
                assert running + size[r["module"]] > limit
    assert stage.select(data.draw(st.permutations(rows)), unit, amount, overflow) == (names, used)


@pytest.fixture
def files(tmp_path):
    rows = rows_of([10, 20, 60, 10], [2, 1, 4, 3])
    listed = [{**{k: r[k] for k in ("module", "layer", "type", "params")}, "in_features": 2, "out_features": 3} for r in rows]
    modules.write(tmp_path / "modules.json", {"id": "toy", "revision": None, "architecture_sha256": "0"}, 100, listed)
    write_scores(tmp_path, rows)
    return tmp_path


def write_scores(folder, rows):
    full = [{**r, "mu": None, "sigma": None, "score": 0.0, "batches": 0} for r in rows]
    scores.write(folder / "s.parquet", full, {"probe": "default", "criterion": "hybrid"})


def run(folder, **change):
    chosen = {"unit": "params", "amount": 0.3, "overflow": "stop", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}} | change
    stage.run(chosen, folder / "s.parquet", folder / "modules.json", folder / "a.json")
    return allocation.read(folder / "a.json")


def test_file(files):
    found = run(files)
    assert tuple(found) == allocation.KEYS
    assert found["fft"] == ["model.layers.0.k", "model.layers.0.q"]  # in order of rank
    assert found["lora"]["names"] == ["model.layers.0.v", "model.layers.0.o"]
    assert found["budget"] == {"unit": "params", "ratio": 0.3, "used": 0.3}
    assert found["counts"] == {"fft": 2, "lora": 2, "trainable": 30 + 2 * 4 * 5, "candidates": 4}
    assert run(files, unit="absolute", amount=30)["budget"] == {"unit": "absolute", "limit": 30, "used": 30}


def test_nothing_fits_is_said(files, capsys):
    assert run(files, amount=0.01)["fft"] == []
    assert "holds no module" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:3], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "params": 11}], "module 'model.layers.0.o' does not agree"),
        (lambda r: [*r[:3], {**r[3], "module": "x"}], "does not agree"),
        (lambda r: [*r[:3], {**r[3], "rank": 1}], "'rank' must hold 1..4"),
        (lambda r: [*r, r[0]], "listed twice"),
    ],
)
def test_scores_of_another_model(files, change, message):
    write_scores(files, change(rows_of([10, 20, 60, 10], [2, 1, 4, 3])))
    with pytest.raises(UserError, match=message):
        run(files)


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
