"""Programs: extraction, kinds of error, what tests may look like, LeetCodeDataset's own solutions."""

import ast
import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from hybrid_lora.grading import asserts, code, dispatch, sandbox

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "leetcode"
TESTS = {
    "prompt": "from typing import *\nfrom math import *\ninf = float('inf')\n",
    "test": "def check(candidate):\n    assert candidate(n = 2) == 4\n    assert candidate(n = 3) == 6\n",
    "entry_point": "Solution().double",
}
RIGHT = "class Solution:\n    def double(self, n: int) -> int:\n        return 2 * n\n"


@pytest.fixture(params=["bubblewrap", "limits"])
def mode(request):
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return sandbox.choose(request.param)


def grade(completion, mode="limits", tests=TESTS, timeout_s=10, memory_mb=512):
    return code.grade_many([code.job(completion, tests)], mode, timeout_s, memory_mb)[0]


def body(text):
    return f"class Solution:\n    def double(self, n):\n        {text}\n"


def test_the_block_that_defines_the_entry_point():
    completion = f"First:\n```python\n{RIGHT}```\nUse it:\n```python\nprint(Solution().double(2))\n```"
    assert code.extract(completion, "Solution().double") == RIGHT
    assert code.extract("```python\nx = 1\n```\n```\ny = 2\n```", "Solution().double") == "y = 2\n"
    assert code.extract(RIGHT, "Solution().double") == RIGHT
    assert code.extract(f"```python\n{RIGHT}", "Solution().double") == RIGHT
    assert code.extract("  1. so\n    ```python\n    class Solution: pass\n    ```", "Solution()") == "class Solution: pass\n"
    assert code.extract(" \n", "Solution()") is None and code.extract(None, "f") is None
    assert code.extract("```bash\nls\n```\nno", "f") == "```bash\nls\n```\nno"


def test_right(mode):
    verdict = grade(f"Sure:\n```python\n{RIGHT}```", mode)
    assert (verdict.correct, verdict.extracted, verdict.error) == (True, RIGHT, None)


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        ("", "no-answer"),
        ("I cannot.", "exception: SyntaxError"),
        (body("return None"), "wrong-answer: test 1 of 2"),
        (body("return 4"), "wrong-answer: test 2 of 2"),
        (body("return '4'"), "wrong-answer: test 1 of 2"),
        (body("return 1 / 0"), "exception: ZeroDivisionError, test 1 of 2"),
        (body("return self.double(n)"), "exception: RecursionError, test 1 of 2"),
        (body("return 4 if n < 3 else exit()"), "exception: NameError, test 2 of 2"),
        (body("raise SystemExit"), "exit: test 1 of 2"),
        ("import os\nos._exit(0)", "exit"),
        (body("raise KeyboardInterrupt"), "exception: KeyboardInterrupt, test 1 of 2"),
        (body("return [0] * 10**9"), "memory: test 1 of 2"),
        (body("return 2 * n if n < 3 else [bytearray(10**6) for _ in iter(int, 1)]"), "memory: test 2 of 2"),
        ("class Solution: pass", "exception: AttributeError"),
        (body("while True: pass"), "timeout: test 1 of 2"),
    ],
)
def test_kinds_of_error(completion, error):
    verdict = grade(completion, timeout_s=2)
    assert (verdict.correct, verdict.error) == (False, error)


def test_a_demonstration_and_prints_do_no_harm(mode):
    verdict = grade(RIGHT + "print('x' * 10**7)\nif __name__ == '__main__':\n    input()\n", mode)
    assert verdict.correct is True


def test_values_of_all_kinds(mode):
    cases = [
        "[1, 2]",
        "(1, 'a')",
        "{1: [2]}",
        "{1, 2}",
        "1.5",
        "True",
        "None",
        "'\\ud800'",
        "b'x'",
        "10**5000",
        "inf",
        "1j",
        "-inf",
        "[[], [None]]",
    ]
    test = "def check(candidate):\n" + "".join(f"    assert candidate({case}) == {case}\n" for case in cases)
    tests = TESTS | {"test": test}
    assert grade(body("return n"), mode, tests).error is None
    assert grade(
        "import collections\n" + body("return collections.OrderedDict(n)"),
        mode,
        TESTS | {"test": "def check(c):\n    assert c({1: 2}) == {1: 2}\n"},
    ).correct
    assert not grade(body("return list(n)"), mode, TESTS | {"test": "def check(c):\n    assert c((1,)) == (1,)\n"}).correct


NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
def list_node(values):
    node = None
    for value in reversed(values):
        node = ListNode(value, node)
    return node
def tree_node(values):
    return TreeNode(values[0], values[1] and TreeNode(values[1]), TreeNode(values[2])) if values else None
"""


def test_lists_and_trees(mode):
    lists = (
        NODES,
        "assert is_same_list(candidate(list_node([1, 2])), list_node([1, 2]))",
        "assert is_same_list(candidate(list_node([])), list_node([]))",
    )
    trees = (
        NODES,
        "assert is_same_tree(candidate(tree_node([1, 2, 3])), tree_node([1, 2, 3]))",
        "assert is_same_tree(candidate(tree_node([1, None, 3])), tree_node([1, None, 3]))",
    )
    for prompt, *lines in (lists, trees):
        tests = {
            "prompt": prompt,
            "entry_point": "Solution().double",
            "test": "def check(candidate):\n    " + "\n    ".join(lines),
        }
        assert grade(body("return n"), mode, tests).correct is True
        assert grade(body("return None"), mode, tests).error == "wrong-answer: test 1 of 2"
        assert grade(body("n.next = n.left = n; return n").replace("n.next", "n.right = n.next"), mode, tests).correct is False


@pytest.mark.parametrize(
    ("statement", "value", "holds"),
    [
        ("assert abs(candidate(1) - 0.5) < 1e-5", 0.5, True),
        ("assert abs(candidate(1) - 0.5) < 1e-5", [0.5], False),
        ("assert sorted(candidate(1)) == [1, 2]", [2, 1], True),
        ("assert candidate(1) in [[1], [2]]", [2], True),
        ("assert candidate(1) is None", None, True),
        ("assert not candidate(1)", True, False),
        ("assert candidate(1) != 3 and candidate(2) == 3", 3, False),
        ("assert math.isclose(candidate(1), 2.0)", 2, True),
        ("assert len(candidate(1)) == 2, 'two'", "ab", True),
        ("assert candidate(1)[0] == 2", [2], True),
    ],
)
def test_forms_of_asserts(statement, value, holds):
    plan = asserts.plan(f"def check(candidate):\n    {statement}\n")
    failure = asserts.first_failure(plan.checks, [value] * len(plan.calls))
    assert failure == (None if holds else 1)


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i\n",
        "def check(candidate):\n    assert candidate(1) == open('x').read()\n",
        "def check(candidate):\n    assert True\n",
        "def check(candidate):\n    pass\n",
        "import os\n",
        "def check(",
        "",
    ],
)
def test_tests_that_cannot_be_decided_outside_are_the_graders_failure(test):
    verdict = grade(RIGHT, tests=TESTS | {"test": test})
    assert verdict.correct is None and verdict.error.startswith("grader: test ")


def test_what_is_expected_is_not_sent():
    plan = asserts.plan("def check(candidate):\n    assert candidate(s = 'in') == 'the-expected-value'\n")
    assert plan.calls == ("candidate(s = 'in')",)


def test_a_failure_of_the_prompt_or_the_interpreter_is_the_graders(mode, monkeypatch):
    verdict = grade(RIGHT, mode, TESTS | {"prompt": "import no_such_module"})
    assert verdict.correct is None and "ModuleNotFoundError" in verdict.error
    monkeypatch.setattr(sandbox, "PYTHON", ["/no/such/python"])
    verdict = grade(RIGHT, mode)
    assert verdict.correct is None and verdict.error.startswith("grader: sandbox")


def test_equal_programs_run_once(monkeypatch):
    ran = []
    real = sandbox.run
    monkeypatch.setattr(sandbox, "run", lambda *a, **k: ran.append(1) or real(*a, **k))
    settings = {"sandbox": "limits", "program_timeout_s": 10, "program_memory_mb": 512, "math_timeout_s": 5}
    rows = [{"completion": RIGHT, "tests": TESTS}, {"completion": body("return 4"), "tests": TESTS}] * 3 + [
        {"completion": RIGHT, "tests": None}
    ]
    dispatch._cache.clear()
    for _ in range(2):
        verdicts = dispatch.grade_batch("code", rows, settings, workers=2)
        assert [verdict.correct for verdict in verdicts] == [True, False] * 3 + [None]
    assert len(ran) == 2


def dataset(name="v0.3.1-test.jsonl.gz"):
    path = DATA / name
    if not path.exists():
        pytest.skip("LeetCodeDataset is not there")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


ALL = bool(os.environ.get("HYBRID_LORA_FULL_TESTS"))  # else a sample: all of them take minutes


def shortened(row, count):
    """The same problem with its first tests only."""
    lines = row["test"].strip().splitlines()
    return row | {"test": "\n".join(lines[: count + 1])}


def best():
    return sandbox.choose("auto")


def test_every_canonical_program_passes():
    rows = dataset()
    assert len(rows) == 228
    jobs = [code.job(row["completion"], row if ALL else shortened(row, 8)) for row in rows]
    verdicts = code.grade_many(jobs, best(), 60, 1024, workers=2)
    assert [(row["task_id"], v.error) for row, v in zip(rows, verdicts) if v.correct is not True] == []


def test_canonical_programs_pass_all_their_tests():
    rows = dataset()[3::19]
    verdicts = code.grade_many([code.job(row["completion"], row) for row in rows], best(), 60, 1024, workers=2)
    assert [(row["task_id"], v.error) for row, v in zip(rows, verdicts) if v.correct is not True] == []


def test_all_tests_can_be_decided_outside():
    for row in dataset()[:: 1 if ALL else 4]:
        count = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(row["test"])))
        assert len(asserts.plan(row["test"]).checks) == count


def test_older_versions_can_be_decided_outside():
    for row in dataset("v0.2.0-train.jsonl.gz")[:: 1 if ALL else 10]:
        assert asserts.plan(row["test"]).checks, row["task_id"]


@pytest.mark.skipif(not ALL, reason="takes minutes: set HYBRID_LORA_FULL_TESTS=1")
def test_every_canonical_program_of_the_older_version_passes():
    rows = dataset("v0.2.0-train.jsonl.gz")
    verdicts = code.grade_many([code.job(row["completion"], row) for row in rows], best(), 60, 1024, workers=2)
    assert [(row["task_id"], v.error) for row, v in zip(rows, verdicts) if v.correct is not True] == []


NONE = "class Solution:\n    def __getattr__(self, name):\n        return lambda *a, **k: None\n"


def test_empty_and_none_programs_pass_none():
    rows = dataset()
    jobs = [code.job(completion, row) for row in rows[:: 1 if ALL else 6] for completion in (NONE, "pass")]
    jobs += [code.job("", row) for row in rows]
    verdicts = code.grade_many(jobs, best(), 60, 1024, workers=2)
    assert {(v.correct, v.error) for v in verdicts if v.correct is not False} == set()
