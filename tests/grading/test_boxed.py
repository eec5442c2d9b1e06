"""The boxes of a text: which one counts, and which belong to one answer."""

import pytest

from hybrid_lora.grading import boxed


@pytest.mark.parametrize(
    "text, gold",
    [
        (r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \mid x > 0 \right\}}", r"\left\{ x \mid x > 0 \right\}"),
        (r"\boxed{\frac{1}{2}", None),
        ("no box", None),
        (r"\boxed{ }", None),
    ],
)
def test_last_boxed_balances_braces(text, gold):
    assert boxed.last(text) == boxed.answer(text) == gold


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{2}", r"\boxed{1} and \boxed{2}"),
        (r"first \boxed{3}, then much later, after all that had to be said about it before, at last \boxed{4}", "4"),
        (r"\boxed{2}, \boxed{2}", "2"),
        (r"\boxed 5", "5"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{1} and \boxed{2", "1"),
    ],
)
def test_several_boxes_of_one_answer(text, answer):
    assert boxed.answer(text) == answer
