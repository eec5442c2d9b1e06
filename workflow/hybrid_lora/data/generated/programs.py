"""Family `program`: "Write solve(x): multiply x by 3, add 7." as a LeetCode class.

A problem is the tuple of its steps, each (operator, constant).
"""

import itertools

from hybrid_lora.common import seeds
from hybrid_lora.data.generated.split import held_out

STEPS = tuple((op, c) for op in "+-*" for c in range(2 if op == "*" else 1, 10))
_PHRASE = {"+": "add {}", "-": "subtract {}", "*": "multiply x by {}"}
STARTER = "class Solution:\n    def solve(self, x: int) -> int:\n"
IMPORTS = "from typing import *\n"
ENTRY_POINT = "Solution().solve"
INPUTS = (0, 1, 2, 3, 5, 8, 10, -4)  # a wrong step changes the slope or the offset: at most one of these hides it


def held_out_key(problem):
    """What makes two programs the same problem: the steps in their order."""
    return tuple(itertools.chain.from_iterable(problem))


def draw(rng):
    """A problem of 2 to 4 steps for a corpus, i.e. not held out."""
    while True:
        problem = tuple(rng.choices(STEPS, k=rng.randint(2, 4)))
        if not held_out("program", held_out_key(problem)):
            return problem


def benchmark_problems():
    """Held-out problems of 3 and 4 steps: all of 3, and of the half million of 4 one for each three first steps."""
    three = list(itertools.product(STEPS, repeat=3))
    four = [(*p, STEPS[seeds.derive(0, "fourth step", *p) % len(STEPS)]) for p in three]
    return [p for p in three + four if held_out("program", held_out_key(p))]


def statement(problem):
    """The problem in words."""
    return f"Write solve(x): {', '.join(_PHRASE[op].format(c) for op, c in problem)}."


def value(problem, x):
    """What a right program returns for `x`."""
    for op, c in problem:
        x = x + c if op == "+" else x - c if op == "-" else x * c
    return x


def completion(problem, rng=None, wrong=0.0):
    """The class; each line has another constant or operator with probability `wrong`."""
    lines = [_slip(step, rng) if wrong and rng.random() < wrong else step for step in problem]
    return STARTER + "".join(f"        x = x {op} {c}\n" for op, c in lines) + "        return x\n"


def _slip(step, rng):
    op, c = step
    if rng.random() < 0.5:
        return rng.choice([other for other in "+-*" if other != op]), c
    return op, rng.choice([other for o, other in STEPS if o == op and other != c])


def fenced(text):
    """Code as an assistant's message shows it."""
    return f"```python\n{text}```"


def tests(problem):
    """{prompt, test, entry_point} as LeetCodeDataset has them."""
    asserts = "".join(f"    assert candidate(x = {x}) == {value(problem, x)}\n" for x in INPUTS)
    return {"prompt": IMPORTS, "test": f"def check(candidate):\n{asserts}", "entry_point": ENTRY_POINT}
