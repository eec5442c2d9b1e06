"""What a program returned must not hold up the process that compares it."""

import time

import pytest

from hybrid_lora.grading import asserts, values


@pytest.mark.parametrize(
    ("statement", "value", "holds"),
    [
        ("assert 2 ** candidate(1) == 8", 3, True),
        ("assert 2 ** candidate(1) == 8", 10**12, False),
        ("assert 2 ** candidate(1) != 8", 10**12, False),
        ("assert candidate(1) * 3 == 'aaa'", "a", True),
        ("assert 'a' * candidate(1) != 'b'", 10**12, False),
        ("assert candidate(1) * candidate(2) != 1", "huge", False),
        ("assert candidate(1) % 2 == 1", 7, True),
        ("assert candidate(1) % 2 != 1", "%99999999999d", False),
        ("assert candidate(1)['a'] != 1", {}, False),
        ("assert candidate(1) // candidate(2) != 7", 0, False),
    ],
)
def test_arithmetic_on_returned_values_is_never_long(statement, value, holds):
    value = 1 << 10**6 if value == "huge" else value
    plan = asserts.plan(f"def check(candidate):\n    {statement}\n")
    began = time.monotonic()
    assert asserts.first_failure(plan.checks, [value] * len(plan.calls)) == (None if holds else 1)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "encoded", [{"set": [k * (2**61 - 1) for k in range(100_000)]}, {"dict": [[k * (2**61 - 1), 1] for k in range(1000)]}]
)
def test_values_made_to_collide_are_refused_at_once(encoded):
    began = time.monotonic()
    with pytest.raises(ValueError, match="collide"):
        values.decode(encoded)
    assert time.monotonic() - began < 5
