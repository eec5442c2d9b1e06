"""Comparisons: tests against hand-counted values and simulation, pairing, groups of seeds, files, refusals."""

import csv
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from hybrid_lora.contracts import grades
from hybrid_lora.evaluation import paired
from hybrid_lora.evaluation.__main__ import main

BENCHMARKS = [
    {"name": "math-500", "kind": "math", "k": 1, "samples": 1},
    {"name": "aime-24", "kind": "math", "k": 1, "samples": 2},
]


def draws():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (1, 5, 2 * (1 + 6) / 64), (6, 1, 2 * (1 + 7) / 128), (0, 2000, 0.0)],
)
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second, p):
    assert paired.mcnemar(only_first, only_second) == pytest.approx(p)


def test_pairing_finds_what_two_intervals_hide():
    """90 of 200 problems are solved by both, 10 more by the first alone: the marginal intervals overlap widely."""
    record, _ = paired.compare([1.0] * 100 + [0.0] * 100, [1.0] * 90 + [0.0] * 110, draws(), 10_000)
    assert (record["n"], record["only_first"], record["only_second"]) == (200, 10, 0)
    assert record["difference"] == pytest.approx(0.05) and record["p_mcnemar"] == pytest.approx(2 / 2**10)
    assert 0 < record["low"] < 0.05 < record["high"] < 0.1 and record["p_bootstrap"] < 0.001
    # the normal approximation of the mean of 200 differences, of which 10 are 1
    deviation = (0.05 * 0.95 / 200) ** 0.5
    assert record["low"] == pytest.approx(0.05 - 1.96 * deviation, abs=0.01)


def test_bootstrap_p_is_two_sided():
    """20 problems solved by the first alone, 10 by the second, of 200: the normal approximation."""
    first, second = [1.0] * 20 + [0.0] * 180, [0.0] * 20 + [1.0] * 10 + [0.0] * 170
    record, _ = paired.compare(first, second, draws(), 10_000)
    z = (10 - 0.5) / (30 - 10**2 / 200) ** 0.5  # a draw of no difference counts on both sides: half a problem less
    assert record["p_bootstrap"] == pytest.approx(math.erfc(z / 2**0.5), abs=0.01)
    assert paired.compare(second, first, draws(), 10_000)[0]["p_bootstrap"] == pytest.approx(record["p_bootstrap"], abs=0.01)


def test_equal_runs_differ_by_nothing():
    record, _ = paired.compare([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], draws(), 1000)
    assert (record["difference"], record["low"], record["high"], record["p_bootstrap"], record["p_mcnemar"]) == (0, 0, 0, 1, 1)


def test_false_alarms_are_as_rare_as_promised():
    """Two runs that solve each problem with the same chance: p < 0.05 in about one case of twenty, by both tests."""
    rng, alarms = random.Random(0), {"p_bootstrap": 0, "p_mcnemar": 0}
    for _ in range(400):
        first, second = ([float(rng.random() < 0.5) for _ in range(100)] for _ in "ab")
        record, _ = paired.compare(first, second, draws(), 400)
        for name in alarms:
            alarms[name] += record[name] < 0.05
    assert 8 <= alarms["p_bootstrap"] <= 36 and alarms["p_mcnemar"] <= 28


def test_shares_have_no_mcnemar():
    record, _ = paired.compare([0.5, 1.0], [0.0, 1.0], draws(), 100)
    assert record["p_mcnemar"] is None and record["difference"] == 0.25


def write(folder, run, benchmark, found):
    """found: {id: list of correct}"""
    path = folder / f"{run}.{benchmark}.parquet"
    rows = [
        {"id": i, "sample": s, "correct": c, "extracted": None, "error": None}
        for i, cs in found.items()
        for s, c in enumerate(cs)
    ]
    grades.write(path, rows)
    return str(path)


@pytest.fixture
def compare(tmp_path):
    """Runs the command over four runs; returns (status, lines of the pairs, lines of the seeds, page)."""
    solved = {"cot": 10, "hybrid": 16, "hybrid-seed1": 14, "lora": 12}
    runs = {}
    for run, count in solved.items():
        # ids in another order in each file: values are paired by id, not by line
        ids = random.Random(run).sample([f"p{i:02d}" for i in range(20)], 20)
        first = write(tmp_path, run, "math-500", {i: [int(i[1:]) < count] for i in ids})
        second = write(tmp_path, run, "aime-24", {i: [int(i[1:]) < count, False] for i in ids})
        runs[run] = {"math-500": first, "aime-24": second}

    def command(**changes):
        pairs, groups = [["hybrid", "cot"], ["hybrid (2 seeds)", "cot"]], {"hybrid (2 seeds)": ["hybrid", "hybrid-seed1"]}
        settings = {
            "benchmarks": BENCHMARKS,
            "runs": runs,
            "pairs": pairs,
            "groups": groups,
            "resamples": 2000,
            "digits": 1,
            "seed": 0,
        }
        files = [path for found in runs.values() for path in found.values()]
        out = {name: str(tmp_path / f"out.{name}") for name in ("csv", "seeds", "md")}
        options = [part for name, path in out.items() for part in (f"--{name}", path)]
        status = main(["compare", "--grades", *files, *options, "--settings", json.dumps({**settings, **changes})])
        if status:
            return status, None, None, None
        lines = [list(csv.DictReader(Path(out[name]).read_text().splitlines())) for name in ("csv", "seeds")]
        return status, *lines, (tmp_path / "out.md").read_text()

    return command


def test_files(compare, tmp_path):
    _, pairs, spread, page = compare()
    assert [(row["a"], row["b"], row["benchmark"]) for row in pairs[:3]] == [
        ("hybrid", "cot", "math-500"),
        ("hybrid", "cot", "aime-24"),
        ("hybrid", "cot", "mean"),
    ]
    first = pairs[0]
    assert (first["value_a"], first["value_b"], first["difference"]) == ("80.0", "50.0", "30.0")
    assert (first["only_a"], first["only_b"], first["n"], first["metric"]) == ("6", "0", "20", "pass@1")
    assert float(first["p_mcnemar"]) == 2 / 2**6 and 0 < float(first["low"]) < 30 < float(first["high"])
    halves = pairs[1]  # pass@1 of two samples, one of which is wrong
    assert (halves["value_a"], halves["difference"], halves["p_mcnemar"]) == ("40.0", "15.0", "")
    assert (pairs[2]["value_a"], pairs[2]["difference"], pairs[2]["n"]) == ("60.0", "22.5", "40")
    group = pairs[3]
    assert (group["a"], group["value_a"], group["difference"], group["p_mcnemar"]) == ("hybrid (2 seeds)", "75.0", "25.0", "")
    assert [row["benchmark"] for row in spread] == ["math-500", "aime-24", "mean"]
    assert (spread[0]["mean"], spread[0]["sd"], spread[0]["least"], spread[0]["most"]) == ("75.0", "7.1", "70.0", "80.0")
    assert "| hybrid | cot | math-500 | 20 | 80.0 | 50.0 | 30.0 [" in page and "hybrid, hybrid-seed1" in page
    assert all((tmp_path / f"out.{name}.manifest.json").exists() for name in ("csv", "seeds", "md"))


def test_mcnemar_needs_problems_solved_or_not_by_design(compare):
    """Where pass@k is estimated, and for groups, it is left out even if all values happen to be 0 or 1."""
    _, pairs, _, _ = compare(
        pairs=[["hybrid", "cot"], ["same (2 seeds)", "cot"]], groups={"same (2 seeds)": ["hybrid", "hybrid"]}
    )
    found = {(row["a"], row["benchmark"]): row["p_mcnemar"] for row in pairs}
    assert found["hybrid", "math-500"] and not found["hybrid", "aime-24"] and not found["same (2 seeds)", "math-500"]


def test_same_settings_same_numbers(compare):
    assert compare() == compare()
    assert compare()[1] != compare(seed=1)[1]


def test_refusals_are_one_line(compare, tmp_path, capsys):
    for changes, said in (
        ({"pairs": [["hybrid", "cott"]]}, "no run or group 'cott', allowed: cot, hybrid"),
        ({"groups": {"g": ["hybrid"]}}, "group 'g' has 1 runs, needs two or more"),
        ({"benchmarks": [{**BENCHMARKS[0], "samples": 4}]}, "has 1 samples; the benchmark's key 'samples' says 4"),
        ({"benchmarks": [{**BENCHMARKS[0], "k": 2}]}, "k is 2, allowed are 1 to samples (1)"),
        ({"runs": {"cot": {"math-500": "elsewhere"}}}, "elsewhere is not among the files of --grades"),
        ({"runs": {"cot": {}}}, "run 'cot' has no grades of benchmark 'math-500'"),
    ):
        assert compare(**changes)[0] == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_runs_on_other_problems_are_refused(compare, tmp_path, capsys):
    write(tmp_path, "lora", "math-500", {f"q{i}": [True] for i in range(20)})
    assert compare()[0] == 2
    error = capsys.readouterr().err
    assert "lora.math-500.parquet: not of the same problems as" in error and "40 ids in one alone" in error
