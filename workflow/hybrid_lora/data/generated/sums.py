"""Family `sum`: "Compute 3+5+8." and its chain of additions. A problem is the tuple of its operands, 1 to 7."""

import itertools

from hybrid_lora.data.generated.split import held_out

DIGITS = range(1, 8)  # up to 7: fewer sums to learn than up to 9
_SIZES, _WEIGHTS = (2, 3, 4, 5, 6), (1, 2, 3, 3, 2)
_SLIPS = (-3, -2, -1, 1, 2, 3)


def held_out_key(problem):
    """What makes two sums the same problem: the operands, in whatever order."""
    return tuple(sorted(problem))


def draw(rng):
    """A problem for a corpus, i.e. not held out; 4 to 6 operands are most of them."""
    while True:
        size = rng.choices(_SIZES, _WEIGHTS)[0]
        problem = tuple(rng.choices(DIGITS, k=size))
        if not held_out("sum", held_out_key(problem)):
            return problem


def benchmark_problems(sizes):
    """All held-out problems with so many operands."""
    return [p for size in sizes for p in itertools.product(DIGITS, repeat=size) if held_out("sum", held_out_key(p))]


def statement(problem):
    """The problem in words."""
    return f"Compute {'+'.join(map(str, problem))}."


def solve(problem, rng=None, wrong=0.0):
    """(lines of the chain, its last value). Each addition is off with probability `wrong`, and the chain goes on from there."""
    value, lines = problem[0], []
    for operand in problem[1:]:
        total = value + operand
        if wrong and rng.random() < wrong:
            total += rng.choice([slip for slip in _SLIPS if total + slip >= 0])
        lines.append(f"{value}+{operand}={total}")
        value = total
    return lines, value


def solution(problem, rng=None, wrong=0.0):
    """(worked solution, its final answer)."""
    lines, value = solve(problem, rng, wrong)
    return "\n".join([*lines, f"The answer is \\boxed{{{value}}}."]), value
