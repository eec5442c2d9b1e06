"""Rewards come from evaluation's graders, each row judged by its own kind."""

import pytest

from hybrid_lora.grading import dispatch
from hybrid_lora.objectives import rewards

GRADING = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
TESTS = {"prompt": "", "test": "def check(candidate):\n    assert candidate(x = 2) == 5\n", "entry_point": "Solution().solve"}
GOOD = "```python\nclass Solution:\n    def solve(self, x: int) -> int:\n        return x + 3\n```"
ROWS = [  # kind, gold, tests, completion, right, in form
    ("math", "7", None, "3+4=7\nThe answer is \\boxed{7}.", 1.0, 1.0),
    ("math", "7", None, "The answer is \\boxed{8}.", 0.0, 1.0),
    ("math", "7", None, "I cannot say.", 0.0, 0.0),
    ("choice", "B", None, "The answer is (B).", 1.0, 1.0),
    ("choice", "B", None, "The answer is (C).", 0.0, 1.0),
    ("choice", "B", None, "", 0.0, 0.0),
    ("choice", "B", None, "I guess that B fits.", 1.0, 0.0),  # found, but not said to be the answer
    ("choice", "B", None, "I cannot say.", 0.0, 0.0),
    ("code", None, TESTS, GOOD, 1.0, 1.0),
    ("code", None, TESTS, GOOD.replace("+ 3", "- 3"), 0.0, 1.0),
    ("code", None, TESTS, "I cannot say.", 0.0, 0.0),
]


def call(functions, rows=ROWS):
    keywords = {
        "completions": [[{"role": "assistant", "content": row[3]}] for row in rows],
        "row_kind": [row[0] for row in rows],
        "gold": [row[1] for row in rows],
        "tests": [row[2] for row in rows],
        "completion_ids": [[0] * 5 for _ in rows],
    }
    return [function(**keywords) for function in functions]


def test_mixed_batch():
    functions, weights = rewards.functions({"accuracy": 1.0, "format": 0.5, "length": 0.25}, GRADING, 20, workers=1)
    assert weights == [1.0, 0.5, 0.25]
    accuracy, format, length = call(functions)
    assert accuracy == [row[4] for row in ROWS]
    assert format == [row[5] for row in ROWS]
    assert length == [0.75] * len(ROWS)


def test_same_texts_with_other_golds_are_judged_again():
    (accuracy,), _ = rewards.functions({"accuracy": 1.0, "format": 0.0, "length": 0.0}, GRADING, 20, workers=1)
    assert call([accuracy], ROWS[:1]) == [[1.0]]
    assert call([accuracy], [("math", "9", None, *ROWS[0][3:])]) == [[0.0]]


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"\sqrt{8}", r"\boxed{2\sqrt{2}}"),
        ("x+1", r"\boxed{1+x}"),
        (r"4.2 \text{ J}", "The answer is 4.2 J."),
        (r"\boxed{1} and \boxed{2}", r"\boxed{2, 1}"),
    ],
)
def test_equal_answers_in_other_words_are_right_as_in_evaluation(gold, said):
    (accuracy,), _ = rewards.functions({"accuracy": 1.0, "format": 0.0, "length": 0.0}, GRADING, 20, workers=1)
    rows = [("math", gold, None, said), ("math", gold, None, r"\boxed{17.5}")]
    evaluated = dispatch.grade_all("math", [{"completion": row[3], "gold": row[1]} for row in rows], GRADING)
    assert call([accuracy], rows) == [[float(verdict.correct) for verdict in evaluated]] == [[1.0, 0.0]]


BROKEN = ("code", None, TESTS | {"test": "def check(candidate):\n    import os\n"}, GOOD, None, None)


def test_grader_failure_is_none():
    (accuracy,), _ = rewards.functions({"accuracy": 1.0, "format": 0.0, "length": 0.0}, GRADING, 20, workers=1)
    assert call([accuracy], [BROKEN]) == [[None]]


def test_grader_failure_earns_nothing_for_form_or_length_either():
    """Otherwise the completion would count as a wrong answer in good form."""
    functions, _ = rewards.functions({"accuracy": 1.0, "format": 0.5, "length": 0.5}, GRADING, 20, workers=1)
    assert call(functions, [BROKEN, ROWS[0]]) == [[None, 1.0], [None, 1.0], [None, 0.75]]
    (length,), _ = rewards.functions({"accuracy": 0.0, "format": 0.0, "length": 1.0}, GRADING, 20, workers=1)
    assert call([length], [BROKEN]) == [[0.75]]  # nothing is graded, so nothing fails


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"source": "math", "gold": "7", "tests": None}, "math"),
        ({"source": "science", "gold": "B", "tests": None}, "choice"),
        ({"source": "science", "gold": "3.2 m", "tests": None}, "math"),
        ({"source": "science", "gold": "AB", "tests": None}, "math"),  # no option's letter, though it is part of the alphabet
        ({"source": "code", "gold": None, "tests": TESTS}, "code"),
        ({"source": "code", "gold": None, "tests": None}, None),
    ],
)
def test_kind(row, expected):
    assert rewards.kind(row) == expected


def test_rows_without_gold_or_tests_are_left_out_with_a_count(capsys):
    rows = [{"source": "code", "gold": None, "tests": None}] * 3 + [{"source": "math", "gold": "1", "tests": None}]
    assert rewards.verifiable(rows, ["math", "code"]) == rows[3:]
    assert capsys.readouterr().err == "rows left out: 3 of code without tests\n"
    assert rewards.verifiable(rows, ["science"]) == []
    told = "rows left out: 3 of source code, which `sources` lacks, 1 of source math, which `sources` lacks\n"
    assert capsys.readouterr().err == told
    blank = [{"source": "math", "gold": " ", "tests": None}, {"source": "code", "gold": None, "tests": dict.fromkeys(TESTS)}]
    assert rewards.verifiable(blank, ["math", "code"]) == []
    assert capsys.readouterr().err == "rows left out: 1 of code without tests, 1 of math without a gold answer\n"
