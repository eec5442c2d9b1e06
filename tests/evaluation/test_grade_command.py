"""The grade command: joins, order, counts, errors as one line."""

import pyarrow.parquet as pq
import pytest

from hybrid_lora.common.files import read_json
from hybrid_lora.contracts import benchmarks, completions, grades
from hybrid_lora.evaluation.__main__ import main

SETTINGS = '{"sandbox": "limits", "program_timeout_s": 10, "program_memory_mb": 512, "math_timeout_s": 5}'
TESTS = {"prompt": "", "test": "def check(candidate):\n    assert candidate(1) == 2\n", "entry_point": "f"}


def written(id, sample, text, reason="stop"):
    return {"id": id, "sample": sample, "prompt_sha256": "0", "completion": text, "tokens": 3, "finish_reason": reason, "seed": 1}


def files(folder, format, problems, rows):
    benchmarks.write(folder / "b.parquet", problems, format)
    completions.write(folder / "c.parquet", rows)
    return ["--completions", str(folder / "c.parquet"), "--benchmark", str(folder / "b.parquet")]


def grade(folder, inputs, *more):
    return main(["grade", *inputs, "--out", str(folder / "g.parquet"), "--settings", SETTINGS, *more])


def test_math(tmp_path, capsys):
    problems = [{"id": "a", "problem": "?", "gold": "1"}, {"id": "b", "problem": "?", "gold": "\\frac{1}{2}"}]
    rows = [written("b", 0, "\\boxed{0.5}"), written("a", 0, "\\boxed{2}"), written("a", 1, "")]
    assert grade(tmp_path, files(tmp_path, "math-500", problems, rows), "--workers", "2") == 0
    found = grades.read(tmp_path / "g.parquet")
    assert [(g["id"], g["sample"], g["correct"], g["error"]) for g in found] == [
        ("b", 0, True, None),
        ("a", 0, False, None),
        ("a", 1, False, "no-answer"),
    ]
    assert "1 of 3 correct; no-answer 1" in capsys.readouterr().err
    manifest = read_json(tmp_path / "g.parquet.manifest.json")
    assert (
        manifest["stage"] == "evaluation.grade"
        and {"hybrid_lora/grading/runner.py", "hybrid_lora/grading/math.py"} <= manifest["code"].keys()
    )


def test_choice(tmp_path):
    problems = [{"id": "a", "options": ["x", "y"], "gold": "B"}]
    assert grade(tmp_path, files(tmp_path, "mmlu-pro", problems, [written("a", 0, "The answer is (B)")])) == 0
    assert grades.read(tmp_path / "g.parquet")[0]["correct"] is True


def test_code_and_unjudged(tmp_path, capsys):
    problems = [{"id": "a", "tests": TESTS}, {"id": "b", "tests": TESTS | {"test": "def check(candidate): pass"}}]
    rows = [written("a", 0, "def f(n): return n + 1"), written("b", 0, "def f(n): return n + 1")]
    assert grade(tmp_path, files(tmp_path, "leetcode", problems, rows)) == 0
    assert [g["correct"] for g in grades.read(tmp_path / "g.parquet")] == [True, None]
    assert "grader 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ids", "samples", "message"),
    [
        (["a", "x"], [0, 0], "b.parquet: no row with id 'x'"),
        (["a"], [0], "c.parquet: no row with id 'b'"),
        (["a", "b", "b"], [0, 0, 0], "id 'b' has sample 0 2 times"),
    ],
)
def test_mismatch_is_one_line(tmp_path, capsys, ids, samples, message):
    problems = [{"id": "a", "gold": "1"}, {"id": "b", "gold": "1"}]
    rows = [written(id, sample, "1") for id, sample in zip(ids, samples)]
    assert grade(tmp_path, files(tmp_path, "math-500", problems, rows)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "g.parquet").exists()


def test_broken_files_and_settings_are_one_line(tmp_path, capsys):
    inputs = files(tmp_path, "math-500", [{"id": "a", "gold": "1"}], [written("a", 0, "1")])
    assert main(["grade", *inputs, "--out", str(tmp_path / "g"), "--settings", '{"sandbox": "limits"}']) == 2
    assert "math_timeout_s" in capsys.readouterr().err
    whole = (tmp_path / "c.parquet").read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[: len(whole) // 2])
    assert grade(tmp_path, inputs) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_null_completion_is_graded(tmp_path):
    inputs = files(tmp_path, "math-500", [{"id": "a", "gold": "1"}], [written("a", 0, None)])
    assert grade(tmp_path, inputs) == 0
    assert pq.read_table(tmp_path / "g.parquet").to_pylist()[0]["error"] == "no-answer"
