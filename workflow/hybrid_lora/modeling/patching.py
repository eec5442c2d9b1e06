"""Attributes of modules replaced for the time of a block, and put back after it."""

import contextlib

_MISSING = object()


class Patches(contextlib.ExitStack):
    """An exit stack that remembers what `set` replaced."""

    def set(self, owner, name, value):
        """setattr(owner, name, value) until the block ends."""
        old = vars(owner).get(name, _MISSING)
        self.callback(lambda: delattr(owner, name) if old is _MISSING else setattr(owner, name, old))
        setattr(owner, name, value)
