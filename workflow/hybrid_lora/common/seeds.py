"""Named seeds: every random draw comes from (seed, purpose, step), never from global state carried along."""

import hashlib


def derive(seed, *names):
    """A 63-bit seed from an integer seed and any number of names or counters, e.g. derive(0, "partition", 3)."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
