"""The generated problems: solvable, disjoint from benchmarks, wrong as often as asked, the gold always true."""

import itertools
import random
import re

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.data.generated import benchmark_rows, corpus_rows, programs, stories, sums
from hybrid_lora.data.generated.split import held_out

ROWS = 4000
COUNTS = {"math-500": 200, "aime": 30, "mmlu-pro": 150, "gpqa": 150, "leetcode": 150}


def corpus(wrong=0.0, direct=0.0, seed=0, rows=ROWS):
    return corpus_rows.rows({"rows": rows, "wrong_steps": wrong, "direct_answers": direct, "seed": seed})


def texts(row):
    return [message["content"] for message in row["messages"]]


def sum_key(text):
    return tuple(sorted(map(int, re.search(r"Compute ([\d+]+)\.", text)[1].split("+"))))


def story_key(text):
    """Signs and amounts read back from the words, which the generator's own key must agree with."""
    start = int(re.search(r"holds (\d)", text)[1])
    (a, first), (b, second) = re.findall(r"(\d) \w+ (?:are )?(added|removed)", text)
    sign = {"added": "+", "removed": "-"}
    return (sign[first], sign[second], start, int(a), int(b))


def program_steps(text):
    found = re.findall(r"(multiply x by|add|subtract) (\d)", text)
    return tuple(({"multiply x by": "*", "add": "+", "subtract": "-"}[word], int(c)) for word, c in found)


KEY = {"math": sum_key, "science": story_key, "code": program_steps}
FIELD = {"math-500": "problem", "aime": "problem", "mmlu-pro": "question", "gpqa": "Question", "leetcode": "query"}
SOURCE = {"math-500": "math", "aime": "math", "mmlu-pro": "science", "gpqa": "science", "leetcode": "code"}


def benchmark_keys(format, seed, count):
    return {KEY[SOURCE[format]](row[FIELD[format]]) for row in benchmark_rows.rows(format, count, seed)}


@pytest.fixture(scope="module")
def clean():
    return corpus(direct=0.2)


@pytest.fixture(scope="module")
def faulty():
    return corpus(wrong=0.25)


def test_mixture_of_sources_and_lengths(clean):
    for source, share in {"math": 0.40, "science": 0.35, "code": 0.25}.items():
        assert abs(sum(row["source"] == source for row in clean) / ROWS - share) < 0.03
    operands = [len(sum_key(texts(row)[0])) for row in clean if row["source"] == "math"]
    assert set(operands) == {2, 3, 4, 5, 6}
    assert sum(n >= 4 for n in operands) > len(operands) / 2


@pytest.mark.parametrize("format", COUNTS)
def test_no_corpus_row_is_a_benchmark_problem(format, clean, faulty):
    source = SOURCE[format]
    keys = set().union(*(benchmark_keys(format, seed, COUNTS[format]) for seed in range(6)))
    rows = clean + faulty + corpus(seed=1)
    seen = {KEY[source](texts(row)[0]) for row in rows if row["source"] == source}
    assert len(seen) > 300
    assert not seen & keys


@pytest.mark.parametrize("first, second", [(0, 1), (24, 25), (2024, 2025)])
def test_aime_of_two_seeds_shares_no_set_of_operands(first, second):
    a, b = benchmark_keys("aime", first, 30), benchmark_keys("aime", second, 30)
    assert len(a) == len(b) == 30
    assert not a & b


def test_held_out_is_about_a_tenth_and_ignores_order():
    drawn = [tuple(random.Random(i).choices(range(1, 10), k=5)) for i in range(5000)]
    share = sum(held_out("sum", sums.held_out_key(p)) for p in drawn) / 5000
    assert 0.05 < share < 0.16
    assert sums.held_out_key((3, 5, 8)) == sums.held_out_key((8, 3, 5))
    assert stories.held_out_key((0, "+", "-", 4, 5, 2)) == stories.held_out_key((7, "+", "-", 4, 5, 2))


def test_enough_problems_exist_and_too_many_is_one_line():
    assert len(benchmark_rows.rows("math-500", 200, 0)) == 200
    assert len(benchmark_rows.rows("gpqa", 198, 0)) == 198
    with pytest.raises(UserError, match=r"generated gpqa: problems is 5000, allowed: 1 to \d+$"):
        benchmark_rows.rows("gpqa", 5000, 0)


def test_same_seed_same_rows_other_seed_other_rows():
    assert corpus(0.2, 0.3, rows=50) == corpus(0.2, 0.3, rows=50)
    assert corpus(0.2, 0.3, rows=50) == corpus(0.2, 0.3, rows=100)[:50]
    assert corpus(rows=50) != corpus(rows=50, seed=1)
    assert benchmark_rows.rows("leetcode", 20, 3) == benchmark_rows.rows("leetcode", 20, 3)


def additions(text):
    """[(whether the line is right, starts with the value before it)] of a worked solution."""
    lines = [tuple(map(int, m)) for m in re.findall(r"^(\d+)([+-]\d+)=(\d+)$", text, re.MULTILINE)]
    follows = all(a[2] == b[0] for a, b in itertools.pairwise(lines))
    return [left + change == total for left, change, total in lines], follows


def code_lines(text):
    return tuple((op, int(c)) for op, c in re.findall(r"x = x ([+*-]) (\d)", text))


def judged(row):
    """One boolean per step of a row that can be wrong, by evaluating what is written."""
    prompt, reply = texts(row)
    if row["source"] == "code":
        return [a == b for a, b in zip(program_steps(prompt), code_lines(reply), strict=True)]
    steps, follows = additions(reply)
    assert follows
    if row["source"] == "science":
        options = dict(re.findall(r"^([A-J])\. (\d)$", prompt, re.MULTILINE))
        first, letter = int(options["A"]), re.search(r"The answer is \(([A-J])\)\.", reply)[1]
        above = re.findall(r"^\d-(\d)=(\d)$", reply, re.MULTILINE)[-1]
        assert int(above[0]) == first and "ABCDEFGHIJ"[int(above[1])] == letter
    return steps


def truth(row):
    """The answer by evaluating the problem's own text."""
    prompt = texts(row)[0]
    if row["source"] == "math":
        return str(sum(sum_key(prompt)))
    first, second, start, a, b = story_key(prompt)
    amount = start + int(f"{first}{a}") + int(f"{second}{b}")
    return {digit: letter for letter, digit in re.findall(r"^([A-J])\. (\d)$", prompt, re.MULTILINE)}[str(amount)]


def final(row):
    return re.search(r"(?:\\boxed\{|\()([A-J]|\d+)[})]\.?$", texts(row)[1])[1]


def test_clean_rows_are_right_throughout(clean):
    for row in clean:
        if row["source"] != "code":
            assert row["gold"] == truth(row) == final(row)
        if texts(row)[0].endswith("\nThink step by step."):
            assert all(judged(row))


@pytest.mark.parametrize("source", ["math", "science", "code"])
def test_steps_are_wrong_as_often_as_asked_and_gold_stays_true(source, faulty):
    rows = [row for row in faulty if row["source"] == source]
    steps = [step for row in rows for step in judged(row)]
    rate = steps.count(False) / len(steps)
    assert abs(rate - 0.25) < 4 * (0.25 * 0.75 / len(steps)) ** 0.5
    if source != "code":
        assert all(row["gold"] == truth(row) for row in rows)
        assert 0.2 < sum(row["gold"] != final(row) for row in rows) / len(rows) < 0.75


def test_direct_answers_have_the_io_prompt_and_nothing_but_the_answer(clean):
    short = [row for row in clean if texts(row)[0].endswith("\nAnswer only.")]
    assert abs(len(short) / ROWS - 0.2) < 0.03
    pattern = {"math": r"\\boxed\{\d+\}", "science": r"\([A-J]\)", "code": r"```python\n.*```"}
    assert all(re.fullmatch(pattern[row["source"]], texts(row)[1], re.DOTALL) for row in short)
    assert {row["source"] for row in short} == set(pattern)


def test_options_are_distinct_digits_and_values_stay_below_ten(faulty):
    sizes = set()
    for row in faulty:
        if row["source"] == "science":
            options = re.findall(r"^([A-J])\. (\d)$", texts(row)[0], re.MULTILINE)
            assert [letter for letter, _ in options] == list(stories.LETTERS[: len(options)])
            assert len({digit for _, digit in options}) == len(options)
            assert all(0 <= int(value) <= 9 for value in re.findall(r"=(\d+)", texts(row)[1]))
            sizes.add(len(options))
    assert sizes == set(range(3, 11))


def passes(completion, tests):
    """Whether a program passes its test, run as LeetCodeDataset runs it."""
    space = {}
    try:
        exec(f"{tests['prompt']}\n{completion}\n{tests['test']}\ncheck({tests['entry_point']})", space)
    except AssertionError:
        return False
    return True


def test_canonical_completions_pass_and_any_single_wrong_step_fails():
    for row in benchmark_rows.rows("leetcode", 60, 0):
        assert passes(row["completion"], row)
        steps = program_steps(row["query"])
        for i, right in enumerate(steps):
            for other in programs.STEPS:
                if other != right:
                    changed = (*steps[:i], other, *steps[i + 1 :])
                    same = all(programs.value(changed, x) == programs.value(steps, x) for x in range(-50, 50))
                    assert passes(programs.completion(changed), row) == same


def test_code_of_the_corpus_passes_its_own_tests_only_where_it_is_right(faulty):
    outcomes = set()
    for row in [row for row in faulty if row["source"] == "code"][:300]:
        right = all(judged(row))
        passed = passes(texts(row)[1].removeprefix("```python\n").removesuffix("```"), row["tests"])
        assert passed or not right
        outcomes.add((right, passed))
    assert {(True, True), (False, False)} <= outcomes


@pytest.mark.parametrize(
    "key, value, allowed",
    [("rows", 0, "a whole number of at least 1"), ("wrong_steps", 1.5, "a number from 0 to 1"), ("seed", None, "a whole number")],
)
def test_bad_generated_settings(key, value, allowed):
    settings = {"rows": 5, "wrong_steps": 0.0, "direct_answers": 0.0, "seed": 0, key: value}
    with pytest.raises(UserError, match=rf"settings\.generated: {key} is {value}, allowed: {allowed}"):
        corpus_rows.rows(settings)
