"""Arithmetic on values that a model's program returned: the same as Python's, but never long or large.

A test such as `2 ** candidate(1) == 8` must not let a program that returns 10**12 hold up the grader.
"""

import ast
import operator

BITS = 100_000  # of an integer; no test of a benchmark is about larger ones
LENGTH = 10_000_000  # of a repeated sequence


def _bounded(operation):
    def calculate(left, right):
        """ValueError if the result could be too large, TypeError for texts where numbers are meant."""
        _check(operation, left, right)
        return operation(left, right)

    return calculate


def _check(operation, left, right):
    for value in (left, right):
        if isinstance(value, int) and value.bit_length() > BITS:
            raise ValueError("too large")
    if operation is operator.mod and isinstance(left, str | bytes):
        raise TypeError("formatting is not supported")
    if operation is operator.pow and isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > BITS:
        raise ValueError("too large")
    sizes = [len(value) for value in (left, right) if hasattr(value, "__len__")]
    counts = [value for value in (left, right) if isinstance(value, int)]
    if operation is operator.mul and sizes and counts and sizes[0] * counts[0] > LENGTH:
        raise ValueError("too large")


OPERATORS = {
    ast.Add: _bounded(operator.add),
    ast.Sub: _bounded(operator.sub),
    ast.Mult: _bounded(operator.mul),
    ast.Div: _bounded(operator.truediv),
    ast.FloorDiv: _bounded(operator.floordiv),
    ast.Mod: _bounded(operator.mod),
    ast.Pow: _bounded(operator.pow),
}
