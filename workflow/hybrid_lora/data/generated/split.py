"""Which generated problems belong to benchmarks and which to corpora: one decision, by a hash of the problem's key.

The key of a sum is its operands whatever their order, of a story its operations and amounts (neither nouns nor options),
of a program its steps. So no corpus, whatever its seed, holds a benchmark's problem in other words.
"""

import functools
import itertools
from collections import defaultdict

from hybrid_lora.common import seeds
from hybrid_lora.common.errors import UserError

ONE_IN = 10  # share of all problems that only benchmarks may use


@functools.cache
def held_out(family, key):
    """True where the problem with this key (a tuple) of this family (sum | story | program) is for benchmarks only."""
    return seeds.derive(0, "held out", family, *key) % ONE_IN == 0


def block(problems, key, count, seed, what):
    """`count` of the held-out `problems`, which other seeds do not get (as long as there are enough blocks to go round).

    problems: all held-out problems of one kind, as tuples; key: the family's function that gives a problem's key. One
    fixed order, whatever the seed, is cut into blocks of `count`, and block `seed` is taken, modulo the number of blocks.
    The order takes each key once before any a second time, so that neighbouring blocks share no key where two fit into
    the number of keys. UserError if there are fewer than `count` problems.
    """
    blocks = len(problems) // count
    if not blocks:
        raise UserError(f"generated {what}: problems is {count}, allowed: 1 to {len(problems)}")
    start = seed % blocks * count
    return _by_rounds(problems, key)[start : start + count]


def _by_rounds(problems, key):
    groups = defaultdict(list)
    for problem in sorted(problems, key=lambda problem: seeds.derive(0, "order", *problem)):
        groups[key(problem)].append(problem)
    ordered = sorted(groups, key=lambda k: seeds.derive(0, "order of keys", *k))
    rounds = itertools.zip_longest(*(groups[k] for k in ordered))
    return [problem for one in rounds for problem in one if problem is not None]
