r"""Answers written in other ways than the gold: what people take for the same is right, what they do not is wrong."""

import pytest

from hybrid_lora.grading import math, notation, stated

SAME = [  # answer (in a box), gold
    ("5.", "5"), ("30^\\circ", "30^\\circ."), ("90°", "90"), ("3π", r"3\pi"), ("2√2", r"2\sqrt{2}"), ("√(x+1)", r"\sqrt{x+1}"),
    ("(-∞, 3]", r"(-\infty,3]"), ("½", "0.5"), ("x²+1", "x^2+1"), ("−3", "-3"), ("x ≤ 3", r"x \le 3"), ("€3", "3"),
    (r"1\,234\,567", "1{,}234{,}567"), (r"11,\! 111,\! 111", "11111111"), (r"\dfrac{1}{29,\!322}", r"\frac{1}{29322}"),
    ("1 1/2", r"1\frac12"), ("-2 1/4", "-2.25"), (r"0.\overline{3}", r"\frac13"), (r"0.1\overline{6}", r"\frac16"),
    ("1.23e5", "123000"), ("a+b+c", "a + b + c"), ("12.5", r"12.5\%"), (r"237.5\%", "237.5"), ("0.125", r"12.5\%"),
    (r"\text{3 cm}", "3"), (r"x \ge 3", r"[3,\infty)"), (r"-2 \le x \le 7", "[-2,7]"), (r"10001_{\text{two}}", "10001_2"),
    ("10001", "10001_2"), (r"\textbf{(B)}\ 5", r"\text{(B)}"), ("B", r"\text{(B)}"), ("A, C", r"\text{A,C}"),
    (r"\text{A and C}", r"\text{A,C}"), ("Tuesday", r"\text{Tuesday}"), (r"\text{Tuesday.}", r"\text{Tuesday}"),
    (r"\text{an ellipse}", r"\text{ellipse}"), (r"\mathrm{Even}", r"\text{even}"), ("\n(1, 2)\n", "(1,2)"),
]  # fmt: skip
OTHER = [
    ("10001_3", "10001_2"), ("17", "10001_2"), ("A, D", r"\text{A,C}"), ("A", r"\text{(B)}"), ("Monday", r"\text{Tuesday}"),
    ("0.05", r"50\%"), (r"500\%", r"50\%"), ("1 1/3", "1.5"), (r"0.\overline{3}", "0.33"), ("x > 3", r"[3,\infty)"),
    (r"-2 < x \le 7", "[-2,7]"), (r"\text{no solution}", "0"), (r"\text{not 5}", "5"), ("12", "1,2"), ("1.5", "1,5"),
    ("3π", "3"), ("√2", "2"), ("x²", "x2"), ("a", "b"), ("...", "5"), (".", "5"), (r"\text{the}", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_the_same_answer_is_right(answer, gold):
    assert math.grade(f"So $\\boxed{{{answer}}}$.", gold, 5).correct is True


@pytest.mark.parametrize(("answer", "gold"), OTHER)
def test_another_answer_is_wrong(answer, gold):
    assert math.grade(f"So $\\boxed{{{answer}}}$.", gold, 5).correct is False


STATED = [
    ("Let $a=3$.\n\n# Answer\n\n\\frac{1}{2}", "0.5"),
    ("Let $a=3$.\n\n**Final Answer**\n\n$\\frac{1}{2}$", "0.5"),
    ("### Final Answer:\n7 apples", "7"),
    ("The answer is:\n\\[\nx = 5\n\\]", "5"),
    ("The answer is:\n\n$$\n\\frac{1}{2}\n$$\nas claimed with 3", "0.5"),
    ("The answer is\n\\begin{pmatrix} 1 \\\\\n 2 \\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("Answer: 34\\text{ sq. units}", "34"),
    ("The answer is Tuesday.", r"\text{Tuesday}"),
    ("So the day is Tuesday.", r"\text{Tuesday}"),
    ("Janet makes \\$18 per day.", "18"),
    ("Hence the required value is \\frac{1}{2}", "0.5"),
    ("<think>maybe \\boxed{3}</think>\n\nThe answer is 5.", "5"),
    ("<think>first \\boxed{3}, no, \\boxed{5}</think>\n", "5"),
    ("The answer is 5<|im_end|>\n<|im_start|>user\nWhat is \\boxed{7}?", "5"),
    ("The answer is \\boxed{5}</s>", "5"),
]


@pytest.mark.parametrize(("text", "gold"), STATED)
def test_stated_answers(text, gold):
    assert math.grade(text, gold, 5).correct is True
    assert math.grade(text, "8", 5).correct is False


def test_a_gold_may_be_a_solution_that_only_ends_in_the_answer():
    gold = "He eats 3 eggs, and 16 - 3 - 4 = <<16-3-4=9>>9 are left.\nShe makes 9 * 2 = $<<9*2=18>>18 every day at the market."
    assert math.grade("The answer is 18.", gold, 5).correct is True
    assert math.grade("#### 9", gold, 5).correct is False
    assert (
        math.grade("The answer is 1,200.", "So there are 1,200 of them in 7 days, thus the number is 1,200 apples.", 5).correct
        is True
    )


def test_nothing_to_rewrite_is_left_as_it_is():
    for text in ("5", r"\frac{1}{2}", "(1,2)", r"\text{10:30 a.m.}", "1,234", "x=5"):
        assert notation.normal(text) == text


def test_prose_is_told_from_formulas():
    assert stated.prose("Janet makes 18 per day")
    assert not stated.prose(r"18\text{ dollars per day}") and not stated.prose(r"\begin{pmatrix}1\\2\end{pmatrix}")
