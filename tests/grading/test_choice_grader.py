"""Multiple choice: table, and agreement with MMLU-Pro's stored predictions."""

import gzip
import json
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
