"""`python -m hybrid_lora.grading`: order, nothing lost, kinds of error, bad input in one line."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hostile_programs import running

from hybrid_lora.__main__ import main as top
from hybrid_lora.grading import lines
from hybrid_lora.grading.__main__ import main

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TESTS = {
    "prompt": "from typing import *\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 4\n",
    "entry_point": "f",
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def graded(folder, kind, rows, *options):
    write(folder / "in.jsonl", rows)
    assert main([kind, "--in", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl"), "--workers", "2", *options]) == 0
    return read(folder / "out.jsonl")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_math(tmp_path, capsys):
    rows = [
        {"id": "a", "completion": r"so \boxed{\frac{1}{2}}", "gold": "0.5"},
        {"id": 7, "completion": "The answer is 3", "gold": "4"},
        {"id": "a", "completion": r"\boxed{25}", "gold": "025"},
        {"id": None, "completion": "#### 1,234", "gold": "He pays 1,234.\n#### 1234"},
        {"id": [1], "completion": r"\boxed{25}", "gold": 25, "more": "ignored"},
        {"id": "e", "completion": "", "gold": "1"},
        {"id": "f", "completion": None, "gold": "1"},
    ]
    assert graded(tmp_path, "math", rows) == [
        {"id": "a", "correct": True, "extracted": r"\frac{1}{2}", "error": None},
        {"id": 7, "correct": False, "extracted": "3", "error": None},
        {"id": "a", "correct": True, "extracted": "25", "error": None},
        {"id": None, "correct": True, "extracted": "1,234", "error": None},
        {"id": [1], "correct": True, "extracted": "25", "error": None},
        {"id": "e", "correct": False, "extracted": None, "error": "no-answer"},
        {"id": "f", "correct": False, "extracted": None, "error": "no-answer"},
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "grade in.jsonl: 4 of 7 correct; no-answer 2"
    assert said[-2].startswith("grade in.jsonl 7/7 (100 %)")


def test_math_with_a_rows_own_options(tmp_path):
    rows = [
        {"id": 0, "completion": "$(0.6,2.67]$", "gold": r"$(\frac{3}{5},\frac{8}{3}]$"},
        {"id": 1, "completion": "$(0.6,2.67]$", "gold": r"$(\frac{3}{5},\frac{8}{3}]$", "options": {"precision": 2}},
        {"id": 2, "completion": "Answer $ \n 9 \n $", "gold": "$9$", "match_types": ["latex"]},
        {"id": 3, "completion": "Answer $ \n 9 \n $", "gold": "$9$", "options": None, "match_types": ["latex", "expr"]},
        {"id": 4, "completion": "9", "gold": "9", "options": {"rounding": 2}},
        {"id": 5, "completion": "9", "gold": "9", "match_types": ["string"]},
    ]
    found = graded(tmp_path, "math", rows)
    assert [row["correct"] for row in found] == [False, True, False, True, None, None]
    assert found[4]["error"].startswith("grader: options allowed are float_rounding, ")
    assert found[5]["error"] == "grader: match_types allowed are latex, expr"


def test_marks_of_other_programs(tmp_path):
    """A byte order mark, CR LF, and pandas' NaN for a missing gold."""
    rows = b'\xef\xbb\xbf{"id": 1, "completion": "5", "gold": 5}\r\n{"id": 2, "completion": "nan", "gold": NaN}\r\n'
    (tmp_path / "in.jsonl").write_bytes(rows)
    assert main(["math", "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]) == 0
    found = read(tmp_path / "out.jsonl")
    assert [(row["id"], row["correct"], row["error"]) for row in found] == [(1, True, None), (2, None, "grader: no gold answer")]


def test_choice(tmp_path):
    options = ["w", "x", "y"]
    rows = [
        {"id": i, "completion": text, "gold": "B", "options": options} for i, text in enumerate(["(B)", "The answer is (J).", ""])
    ]
    found = graded(tmp_path, "choice", rows)
    assert [(row["correct"], row["extracted"], row["error"]) for row in found] == [
        (True, "B", None),
        (False, "J", "no-option"),
        (False, None, "no-answer"),
    ]


def test_code(tmp_path):
    programs = ["def f(n): return 2 * n", "def f(n): return 2", "def f(n): return 1 / (n - 2)", "", "import os; os._exit(0)"]
    rows = [{"id": i, "completion": text, "tests": TESTS} for i, text in enumerate(programs)]
    found = graded(tmp_path, "code", rows, "--sandbox", "limits", "--timeout", "20", "--memory", "512")
    assert [(row["id"], row["correct"], row["error"]) for row in found] == [
        (0, True, None),
        (1, False, "wrong-answer: test 2 of 2"),
        (2, False, "exception: ZeroDivisionError, test 2 of 2"),
        (3, False, "no-answer"),
        (4, False, "exit"),
    ]


BAD = {
    "math": [
        ({"completion": "1", "gold": "1"}, "grader: no key 'id'"),
        ({"id": 0, "gold": "1"}, "grader: no key 'completion'"),
        ({"id": 0, "completion": "1"}, "grader: no key 'gold'"),
        ({"id": 0, "completion": "1", "gold": None}, "grader: no gold answer"),
        ({"id": 0, "completion": "1", "gold": ["1"]}, "grader: no gold answer"),
        ({"id": 0, "completion": "1", "gold": True}, "grader: no gold answer"),
        ({"id": 0, "completion": {"text": "1"}, "gold": "1"}, "grader: completion is no text but dict"),
    ],
    "choice": [
        ({"id": 0, "completion": "A", "gold": None, "options": ["a"]}, "grader: gold is not one of the 1 options' letters"),
        ({"id": 0, "completion": "A", "gold": "B", "options": ["a"]}, "grader: gold is not one of the 1 options' letters"),
        ({"id": 0, "completion": "A", "gold": "A", "options": None}, "grader: options are no list"),
        ({"id": 0, "completion": "A", "gold": "A", "options": 4}, "grader: options are no list"),
        ({"id": 0, "completion": "A", "gold": "A", "options": []}, "grader: options are no list"),
        ({"id": 0, "completion": "A", "gold": 0, "options": ["a"]}, "grader: gold is not one of the 1 options' letters"),
    ],
    "code": [
        ({"id": 0, "completion": "x", "tests": None}, "grader: the problem has no tests"),
        ({"id": 0, "completion": "x", "tests": "assert f(1)"}, "grader: the problem has no tests"),
        ({"id": 0, "completion": "x", "tests": {"prompt": "", "test": "x"}}, "grader: tests without entry_point"),
        ({"id": 0, "completion": "x", "tests": TESTS | {"test": None}}, "grader: tests without test"),
        (
            {"id": 0, "completion": "x", "tests": TESTS | {"test": "assert f(1)"}},
            "grader: test is not one function check(candidate)",
        ),
        ({"id": 0, "completion": "x", "tests": TESTS | {"entry_point": "f("}}, "grader: entry_point is no expression"),
    ],
}
GOOD = {
    "math": {"id": "good", "completion": "1", "gold": "1"},
    "choice": {"id": "good", "completion": "A", "gold": "A", "options": ["a"]},
    "code": {"id": "good", "completion": "def f(n): return 2 * n", "tests": TESTS},
}


@pytest.mark.parametrize("kind", BAD)
def test_rows_that_cannot_be_judged_are_counted_and_cost_no_others(tmp_path, capsys, kind):
    rows = [GOOD[kind], *(row for row, _ in BAD[kind]), GOOD[kind]]
    found = graded(tmp_path, kind, rows, *(["--sandbox", "limits"] if kind == "code" else []))
    good = {"id": "good", "correct": True}
    assert [{key: row[key] for key in good} for row in (found[0], found[-1])] == [good, good]
    assert [(row["correct"], row["error"]) for row in found[1:-1]] == [(None, error) for _, error in BAD[kind]]
    assert [row["id"] for row in found] == [row.get("id") for row in rows]
    count = len(BAD[kind])
    assert f"2 of {count + 2} correct, {count} not judged; grader {count}" in capsys.readouterr().err


def broken(folder):
    """{name of a file that is none: what is said of it}"""
    whole = "".join(json.dumps(GOOD["math"]) + "\n" for _ in range(1000)).encode()
    packed = gzip.compress(whole)
    contents = {
        "half.jsonl": (whole[: len(whole) // 2 + 7], "is not JSON"),
        "half.jsonl.gz": (packed[: len(packed) // 2], "cannot be read"),
        "plain.jsonl.gz": (whole, "cannot be read"),
        "text.jsonl": (b"hello\n", "line 1 is not JSON"),
        "array.jsonl": (b"[1]\n", "line 1 is a JSON list"),
        "deep.jsonl": (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        "binary.jsonl": (bytes(range(256)), "is not JSON"),
        "other.jsonl": (json.dumps(GOOD["code"]).encode(), "no row has the key 'gold' (needed: id, completion, gold)"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: said for name, (_, said) in contents.items()} | {"none.jsonl": "no such file", ".": "cannot be read"}


def test_a_broken_file_is_one_line(tmp_path, capsys):
    for name, said in broken(tmp_path).items():
        path = tmp_path / name
        assert main(["math", "--in", str(path), "--out", str(tmp_path / "out.jsonl")]) == 2
        error = capsys.readouterr().err
        assert said in error and str(path) in error and error.count("\n") == 1, name
        assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys):
    write(tmp_path / "in.jsonl", [GOOD["math"]])
    (tmp_path / "file").write_text("")
    assert main(["math", "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "file" / "out.jsonl")]) == 2
    assert capsys.readouterr().err.startswith(f"hybrid_lora: error: {tmp_path / 'file' / 'out.jsonl'}: cannot be written")


@pytest.mark.parametrize("option", [["--workers", "0"], ["--timeout", "0"], ["--timeout", "nan"]])
def test_options_that_make_no_sense(tmp_path, option):
    with pytest.raises(SystemExit) as stopped:
        main(["math", "--in", "x", "--out", "y", *option])
    assert stopped.value.code == 2


def test_bytes_that_are_no_text_are_judged_as_the_model_wrote_them(tmp_path):
    whole = b'{"id": 1, "completion": "\xff\xfe\\\\boxed{3} \xed\xa0\x80", "gold": "3"}\n'
    whole += b'{"id": 2, "completion": "\\ud800 \\\\boxed{\\ud800}", "gold": "3"}\n'
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(whole + b"\n"))
    assert main(["math", "--in", str(tmp_path / "in.jsonl.gz"), "--out", str(tmp_path / "out.jsonl")]) == 0
    assert [row["correct"] for row in read(tmp_path / "out.jsonl")] == [True, False]


@pytest.mark.parametrize("kind", GOOD)
def test_a_completion_of_100_mb(tmp_path, kind):
    rows = [GOOD[kind] | {"completion": "x {$" * 25_000_000}, GOOD[kind], GOOD[kind] | {"completion": ""}]
    began = time.monotonic()
    found = graded(tmp_path, kind, rows, *(["--sandbox", "limits"] if kind == "code" else []))
    assert [row["correct"] for row in found] == [False, True, False] and time.monotonic() - began < 60
    assert (tmp_path / "out.jsonl").stat().st_size < 500_000


def test_an_empty_file_has_no_verdicts(tmp_path):
    assert graded(tmp_path, "math", []) == []


def test_from_the_shell_and_as_a_subcommand(tmp_path):
    write(tmp_path / "in.jsonl", [GOOD["math"], {"id": 2, "completion": r"\boxed{x+y}", "gold": "y+x"}] * 20)
    command = [sys.executable, "-m", "hybrid_lora.grading", "math", "--in", "in.jsonl", "--out", "out.jsonl", "--workers", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "grade in.jsonl: 40 of 40 correct"
    assert top(["grading", "math", "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()


def test_code_is_refused_where_there_is_no_bubblewrap(tmp_path, monkeypatch, capsys):
    from hybrid_lora.grading import sandbox

    write(tmp_path / "in.jsonl", [GOOD["code"]])
    monkeypatch.setattr(sandbox, "_bubblewrap_problem", lambda: "bwrap is not installed")
    assert main(["code", "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "allow the weaker mode: limits | auto" in capsys.readouterr().err


def test_a_grader_that_breaks_is_an_error_and_not_a_wrong_answer(monkeypatch):
    def breaks(*arguments):
        raise RuntimeError("text of a problem")

    from hybrid_lora.grading import choice

    monkeypatch.setattr(choice, "grade", breaks)
    settings = {"sandbox": "limits", "program_timeout_s": 1, "program_memory_mb": 64, "math_timeout_s": 1}
    verdicts = lines.grade("choice", [GOOD["choice"]] * 2, settings, 1)
    assert [(verdict.correct, verdict.error) for verdict in verdicts] == [(None, "grader: RuntimeError in breaks")] * 2


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is absent")
def test_real_rows_of_all_kinds(tmp_path):
    with gzip.open(DATA / "math500/test.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][::10]
    rows = [{"id": row["unique_id"], "completion": row["solution"], "gold": row["answer"]} for row in rows]
    assert all(row["correct"] for row in graded(tmp_path, "math", rows))
    with gzip.open(DATA / "leetcode/v0.3.1-test.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for _, line in zip(range(3), file)]
    rows = [{"id": row["task_id"], "completion": row["completion"], "tests": {key: row[key] for key in TESTS}} for row in rows]
    assert all(row["correct"] for row in graded(tmp_path, "code", rows, "--sandbox", "auto"))


@pytest.mark.parametrize("mode", ["bubblewrap", "limits"])
def test_a_killed_grader_leaves_no_program_running(tmp_path, mode):
    if mode == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    token = uuid.uuid4().hex
    stubborn = "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\ntime.sleep(1000)"
    write(tmp_path / "in.jsonl", [GOOD["code"] | {"completion": f"{stubborn}\n'{token}'"}])
    text = "from hybrid_lora.grading import sandbox\nimport sys\nfrom hybrid_lora.grading.__main__ import main\n"
    text += f"sandbox.ENVIRONMENT['TOKEN'] = '{token}'\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", text, "code", "--in", "in.jsonl", "--out", "out.jsonl", "--sandbox", mode]
    grader = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: running(token)), "no program was started"
        time.sleep(0.5)  # it is past its own start
    finally:
        grader.kill()
        grader.wait()
    assert until(lambda: not running(token))
    assert not (tmp_path / "out.jsonl").exists()


def until(holds, seconds=10):
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()
