"""A rule's one parameter: a `Settings` dict, which Snakemake compares between runs and the shell line gets as JSON."""

import functools
import json

from hybrid_lora.common import packages

RESULTS = "results"


class Settings(dict):
    """A dict with sorted keys that prints as JSON, so that `{params.settings:q}` is a shell word a person can copy.

    A number is written in one way: 1.0 and 1 are the same setting, and must not rerun anything.
    """

    def __init__(self, values):
        super().__init__(_sorted(values))

    def __str__(self):
        return json.dumps(self, ensure_ascii=False)

    __format__ = object.__format__


def settings_of(command):
    """Decorates a method of `Plan` that gives a job's settings: they become `Settings`, and are computed once.

    command: the dotted name below the package, or a function of the method's arguments that gives it. The versions of the
    packages that change what it computes are added as `packages`, where there are any.
    """

    def decorate(method):
        @functools.wraps(method)
        def settings(self, *arguments):
            key = (method.__name__, *arguments)
            if key not in self.made:
                found = Settings(method(self, *arguments))
                name = command if isinstance(command, str) else command(self, *arguments)
                versions = packages.used(f"hybrid_lora.{name}", found, self.version)
                self.made[key] = Settings({**found, "packages": versions}) if versions else found
            return self.made[key]

        return settings

    return decorate


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
