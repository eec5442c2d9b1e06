"""Metrics: the estimator against counting, intervals, groups, and refusals."""

import itertools
import json

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import benchmarks, completions, grades
from hybrid_lora.evaluation import metrics
from hybrid_lora.evaluation.__main__ import main


@pytest.mark.parametrize(("k", "samples"), [(1, 1), (1, 4), (2, 4), (4, 4), (3, 6)])
def test_estimator_counts_subsets(k, samples):
    for correct in range(samples + 1):
        subsets = list(itertools.combinations(range(samples), k))
        share = sum(min(subset) < correct for subset in subsets) / len(subsets)
        assert metrics.pass_at(k, samples, correct) == pytest.approx(share)


def test_interval():
    record = metrics.interval([1.0] * 60 + [0.0] * 40, 1)
    assert record["value"] == 0.6 and record["n"] == 100
    assert record["low"] == pytest.approx(0.5, abs=0.03) and record["high"] == pytest.approx(0.7, abs=0.03)
    assert record == metrics.interval([1.0] * 60 + [0.0] * 40, 1)
    assert metrics.interval([1.0, 1.0], 1) == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}


def command(folder, verdicts, settings, format="math-500"):
    """verdicts: {id: list of correct}; the last completion of each problem is cut off."""
    extra = {"options": ["x", "y"]} if format == "mmlu-pro" else {}
    problems = [{"id": id, "gold": "A", "level": 1 + i % 2, **extra} for i, id in enumerate(verdicts)]
    benchmarks.write(folder / "b.parquet", problems, format)
    pairs = [(id, s, c) for id, found in verdicts.items() for s, c in enumerate(found)]
    rows = [
        {
            "id": id,
            "sample": s,
            "prompt_sha256": "",
            "completion": "",
            "tokens": 1,
            "finish_reason": "length" if s + 1 == len(verdicts[id]) else "stop",
            "seed": 0,
        }
        for id, s, _ in pairs
    ]
    completions.write(folder / "c.parquet", rows)
    error = {True: None, False: "timeout", None: "grader: x"}
    grades.write(
        folder / "g.parquet", [{"id": id, "sample": s, "correct": c, "extracted": None, "error": error[c]} for id, s, c in pairs]
    )
    names = {"grades": "g", "completions": "c", "benchmark": "b"}
    inputs = [part for name, file in names.items() for part in (f"--{name}", str(folder / f"{file}.parquet"))]
    return main(["metrics", *inputs, "--out", str(folder / "m.json"), "--settings", json.dumps(settings)])


def test_record(tmp_path, capsys):
    verdicts = {"a": [True, False], "b": [False, False], "c": [None, True], "d": [True, True]}
    assert command(tmp_path, verdicts, {"k": 1, "samples": 2, "seed": 0}) == 0
    record = read_json(tmp_path / "m.json")
    assert record["metric"] == "pass@1" and record["value"] == 0.5 and record["low"] < 0.5 < record["high"]
    assert (record["n"], record["k"], record["samples"], record["truncated"], record["unjudged"]) == (4, 1, 2, 4, 1)
    assert record["groups"]["level"]["1"]["value"] == 0.5 and record["groups"]["level"]["2"]["n"] == 2
    assert record["errors"] == {"grader": 1, "timeout": 3}
    assert "pass@1 0.5000" in capsys.readouterr().err
    assert (tmp_path / "m.json.manifest.json").exists()


def test_names(tmp_path):
    command(tmp_path, {"a": [True] * 4, "b": [False] * 4}, {"k": 4, "samples": 4, "seed": 0})
    assert read_json(tmp_path / "m.json")["metric"] == "pass@4"
    command(tmp_path, {"a": [True], "b": [False]}, {"k": 1, "samples": 1, "seed": 0}, "mmlu-pro")
    assert read_json(tmp_path / "m.json")["metric"] == "accuracy"
    command(tmp_path, {"a": [True], "b": [False]}, {"k": 1, "samples": 1, "seed": 0, "metric": "exact"})
    assert read_json(tmp_path / "m.json")["metric"] == "exact"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 2, "samples": 1, "seed": 0}, "k is 2"),
        ({"k": 1, "samples": 3, "seed": 0}, "samples"),
        ({"k": 1, "samples": 1}, "seed"),
    ],
)
def test_refusals(tmp_path, capsys, settings, message):
    assert command(tmp_path, {"a": [True], "b": [False]}, settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_grades_of_another_benchmark():
    with pytest.raises(UserError, match="not those of the benchmark"):
        metrics.compute(
            [{"id": "z"}],
            "math",
            [{"id": "a", "sample": 0, "correct": True, "error": None}],
            [],
            {"k": 1, "samples": 1, "seed": 0},
        )


def verdict(id, sample=0):
    return {"id": id, "sample": sample, "correct": True, "error": None}


@pytest.mark.parametrize(
    ("ids", "verdicts", "said"),
    [
        ("ab", [verdict("a"), verdict("a")], "id 'a', sample 0 stands there twice"),
        ("ab", [verdict("a"), verdict(None)], "id 'None', sample 0 has no id or sample"),
        ("ab", [verdict("a"), verdict("b", None)], "id 'b', sample None has no id or sample"),
        ("ab", [verdict("a"), verdict("b"), verdict("b", 1)], "id 'b' has 2 samples"),
        ("abc", [verdict("a"), verdict("b")], "(2 against 3, e.g. 'c' is in one alone)"),
        ("a", [verdict("a"), verdict("b")], "(2 against 1, e.g. 'b' is in one alone)"),
        ("aab", [verdict("a"), verdict("b")], "has the id 'a' twice"),
        ("a", [], "(0 against 1"),
    ],
)
def test_mismatched_ids_are_one_line(ids, verdicts, said):
    with pytest.raises(UserError) as caught:
        metrics.compute([{"id": i} for i in ids], "math", verdicts, [], {"k": 1, "samples": 1, "seed": 0}, "g.parquet")
    assert str(caught.value).startswith("g.parquet: ") and said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["subject", "level", "category", "difficulty", "High-level domain", "Subdomain"])
def test_groups_are_means_of_their_problems(column):
    problems = [{"id": i, column: group} for i, group in zip("abcde", ["x", "x", "x", "y", None])]
    verdicts = [{**verdict(i), "correct": i in "abe"} for i in "abcde"]
    record = metrics.compute(problems, "math", verdicts, [], {"k": 1, "samples": 1, "seed": 0})
    found = {name: (part["value"], part["n"]) for name, part in record["groups"][column].items()}
    assert found == {"x": (pytest.approx(2 / 3), 3), "y": (0.0, 1), "none": (1.0, 1)} and list(record["groups"]) == [column]
    whole = record["groups"][column]["x"]
    assert 0 <= whole["low"] < whole["value"] < whole["high"] <= 1
