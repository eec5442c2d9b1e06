"""What a program returned, from the JSON of its process to plain data: whatever stands there, nothing of it is run.

Forged values come this way too, so each is checked, bounded, and equal to nothing that it does not spell out.
"""

from dataclasses import dataclass

COLLISIONS = 100  # different keys of a dict or set that may share a hash
# What values of the wrong kind, forged ones among them, may raise: abs() of a list, {"tree": [{"a": 1}]}.
UNFIT = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Linked:
    """A linked list's values, or a tree's in preorder; unlike the built-in containers it equals its own kind only."""

    kind: str
    values: tuple


def decode(value):
    """The inverse of `runner.encode`; ValueError on what it never writes."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("not an encoded value")
    kind, inner = next(iter(value.items()))
    if kind not in _DECODERS:
        raise ValueError("not an encoded value")
    return _DECODERS[kind](inner)


def _spread(keys):
    """`keys` as a list; ValueError if many share a hash: a table of numbers made to collide would take hours to build."""
    keys, buckets = list(keys), {}
    for key in keys:
        bucket = buckets.setdefault(hash(key), [])
        if key not in bucket:
            bucket.append(key)
            if len(bucket) > COLLISIONS:
                raise ValueError("keys that collide")
    return keys


def of_keys(kind):
    """set, frozenset or dict (of pairs or a dict), for values that a program returned; ValueError if they collide."""

    def make(values=()):
        values = list(values.items()) if isinstance(values, dict) and kind is dict else list(values)
        _spread(key for key, _ in values) if kind is dict else _spread(values)
        return kind(values)

    return make


_DECODERS = {
    "int": lambda text: int(text, 16),
    "tuple": lambda items: tuple(map(decode, items)),
    "dict": lambda items: dict(zip(_spread(decode(key) for key, _ in items), [decode(item) for _, item in items])),
    "set": lambda items: set(_spread(map(decode, items))),
    "bytes": bytes.fromhex,
    "complex": lambda parts: complex(*parts),
    "linked": lambda items: Linked("linked", tuple(map(decode, items))),
    "tree": lambda items: Linked("tree", tuple(item and (decode(item[0]),) for item in items)),
    "other": lambda name: Linked("other", (object(),)),  # equal to nothing
}
