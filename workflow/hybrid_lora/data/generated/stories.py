"""Family `story`: two changes of an amount, told in words, with one-digit options to choose from.

A problem is (item, first sign, second sign, start, first amount, second amount); every value on the way is 0 to 9.
"""

import itertools

from hybrid_lora.data.generated.split import held_out

LETTERS = "ABCDEFGHIJ"
# (subject, subdomain, container, unit); the first half is GPQA's three subjects, the second half MMLU-Pro's categories.
ITEMS = (
    ("physics", "heat", "coil", "J"),
    ("physics", "fluids", "tank", "L"),
    ("chemistry", "salts", "flask", "g"),
    ("chemistry", "gases", "tube", "mol"),
    ("biology", "birds", "nest", "eggs"),
    ("biology", "cells", "dish", "cells"),
    ("business", "trade", "shop", "coins"),
    ("business", "stock", "store", "boxes"),
    ("engineering", "parts", "crate", "bolts"),
    ("engineering", "power", "cell", "V"),
    ("health", "drugs", "jar", "pills"),
    ("health", "food", "bag", "nuts"),
)
GPQA_ITEMS, MMLU_PRO_ITEMS = range(6), range(6, 12)
_WORD = {"+": "added", "-": "removed"}
_SIGN = {"+": 1, "-": -1}


def _fits(first, second, start, a, b):
    middle = start + _SIGN[first] * a
    return 0 <= middle <= 9 and 0 <= middle + _SIGN[second] * b <= 9


# Amounts stop at 8: with 9 the second step has but one start in range, and no wrong first step could lead to it.
CHANGES = tuple(c for c in itertools.product("+-", "+-", range(1, 10), range(1, 9), range(1, 9)) if _fits(*c))


def held_out_key(problem):
    """What makes two stories the same problem: signs and amounts, whatever the nouns and options."""
    return problem[1:]


def draw(rng):
    """A problem for a corpus, i.e. not held out."""
    while True:
        problem = (rng.randrange(len(ITEMS)), *rng.choice(CHANGES))
        if not held_out("story", held_out_key(problem)):
            return problem


def benchmark_problems(items):
    """All held-out problems about these items (indices of ITEMS)."""
    return [(item, *change) for item in items for change in CHANGES if held_out("story", change)]


def statement(problem):
    """The story and its question, without options."""
    item, first, second, start, a, b = problem
    _, _, container, unit = ITEMS[item]
    return (
        f"A {container} holds {start} {unit}. Then {a} {unit} are {_WORD[first]} and {b} {unit} {_WORD[second]}. How many {unit}?"
    )


def answer(problem):
    """The true amount at the end."""
    _, first, second, start, a, b = problem
    return start + _SIGN[first] * a + _SIGN[second] * b


def steps(problem, rng=None, wrong=0.0):
    """(the two lines, last value); each line is wrong with probability `wrong`, all values stay 0 to 9."""
    _, first, second, start, a, b = problem
    middle = start + _SIGN[first] * a
    if wrong and rng.random() < wrong:
        low, high = (0, 9 - b) if second == "+" else (b, 9)
        middle = rng.choice([value for value in range(low, high + 1) if value != middle])
    final = middle + _SIGN[second] * b
    if wrong and rng.random() < wrong:
        final = rng.choice([value for value in range(10) if value != final])
    return [f"{start}{first}{a}={middle}", f"{middle}{second}{b}={final}"], final


def options(rng, count, needed):
    """`count` or more digits in a row, ascending, those of `needed` among them.

    In a row, so that a letter can be worked out from the first option: a small model learns to calculate long before it
    learns to look up where among ten options a value stands.
    """
    low, high = min(needed), max(needed)
    count = max(count, high - low + 1)
    start = rng.randint(max(0, high - count + 1), min(low, 10 - count))
    return list(range(start, start + count))


def listed(choices):
    """The options as a prompt shows them, one line each: "A. 7"."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices))


def solution(lines, value, choices, rng=None, wrong=0.0):
    """(worked solution, letter): how far `value` lies above the first option tells the letter.

    With probability `wrong` that difference, and so the letter, is another one.
    """
    above = choices.index(value)
    if wrong and rng.random() < wrong:
        above = rng.choice([i for i in range(len(choices)) if i != above])
    letter = LETTERS[above]
    return "\n".join([*lines, f"{value}-{choices[0]}={above}", f"The answer is ({letter})."]), letter
