"""Multiple choice: table, and agreement with MMLU-Pro's stored predictions."""

import gzip
import json
import time
from pathlib import Path

import pytest

from hybrid_lora.grading import choice

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "mmlu_pro"
CASES = [
    ("The answer is (C).", "C"),
    ("the answer is C", "C"),
    ("The answer is **C**", "C"),
    ("**Answer:** (C)", "C"),
    ("Answer: C. because", "C"),
    (r"\boxed{C}", "C"),
    (r"$\boxed{\text{C}}$", "C"),
    (r"\boxed{(C) sodium}", "C"),
    (r"The answer is $\boxed{C}$", "C"),
    ("The answer is (B). Wait. The answer is (C).", "C"),
    ("<think>the answer is (B)</think>\nThe answer is (C)", "C"),
    ("<think>the answer is (C)</think>\nDone.", "C"),
    ("I would take\nC", "C"),
    ("**Answer: C**\nOption D is not.", "C"),
    ('The answer is "C", not A', "C"),
    ("THE ANSWER IS C, unlike D", "C"),
    ("The answer is (c), D is wrong", "C"),
    ("answer: c.\nD is wrong", "C"),
    ("The correct option is C. Option D would need more.", "C"),
    ("The correct option is A? No. The correct option is C: D", "C"),
    ("Therefore (C) is the correct answer, since D is false.", "C"),
    ("So option C is correct, whereas option A is not.", "C"),
    ("The best choice would be **C**, as D", "C"),
    ("**C**\n\nA and B fail.", "C"),
    ("C\nBecause A is wrong", "C"),
    ("The answer is (C). Option A is correct only of others.", "C"),
    ("the answer is a little complicated", None),
    ("no letter here", None),
    ("", None),
    ("The answer is (J).", "J"),
    ("J", None),
    ("The answer is Carbon", None),
]


@pytest.mark.parametrize(("completion", "letter"), CASES)
def test_letter(completion, letter):
    verdict = choice.grade(completion, "C", ["w", "x", "y", "z"])
    assert verdict.extracted == letter
    assert verdict.correct is (letter == "C")
    assert verdict.error == {None: "no-answer", "J": "no-option"}.get(letter)


@pytest.mark.parametrize("completion", [None, "x" * 100_000_000, "\ud800"])
def test_odd_completions(completion):
    assert choice.grade(completion, "C", ["w", "x", "y", "z"]).correct is False


@pytest.mark.parametrize(("gold", "options"), [(None, ["a"]), ("B", ["a"]), ("AB", ["a", "b"]), ("", ["a"]), ("A", None)])
def test_a_gold_that_is_no_option_is_the_graders_failure(gold, options):
    assert choice.grade("The answer is (A)", gold, options).correct is None


def test_a_gold_with_blanks_is_a_letter():
    assert choice.grade("The answer is (C).", " C\n", ["w", "x", "y", "z"]).correct is True


@pytest.mark.parametrize(
    "text", ["answer: " + "*" * 200_000, "answer is" + " " * 200_000, "A is the " * 20_000, "option " + "*(" * 100_000]
)
def test_no_text_takes_long(text):
    began = time.monotonic()
    choice.grade(text, "C", ["w", "x", "y", "z"])
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("model", ["Meta-Llama-3_1-8B-Instruct", "Mistral-7B-v0.1"])
def test_agreement_with_stored_predictions(model):
    """Where the text holds no letter, the stored one (always G) is the authors' stand-in, not a prediction: 90 rows of Llama."""
    path = DATA / f"outputs_{model}_sample1500.jsonl.gz"
    if not path.exists():
        pytest.skip("MMLU-Pro's outputs are not there")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["pred"]]
    found = [(choice.grade(row["text"], row["answer"], [""] * row["n_options"]).extracted, row) for row in rows]
    assert {row["pred"] for letter, row in found if letter is None} <= {"G", "H"}
    made = [letter == row["pred"] for letter, row in found if letter is not None]
    assert len(made) > 1350 and sum(made) / len(made) >= 0.985
    verdicts = [choice.grade(row["text"], row["answer"], [""] * row["n_options"]).correct is row["correct"] for row in rows]
    assert sum(verdicts) / len(verdicts) >= 0.985
