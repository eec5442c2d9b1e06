"""A rule's one parameter: a `Settings` dict, which Snakemake compares between runs and the shell line gets as JSON."""

import json

RESULTS = "results"


class Settings(dict):
    """A dict with sorted keys that prints as JSON, so that `{params.settings:q}` is a shell word a person can copy."""

    def __init__(self, values):
        super().__init__(_sorted(values))

    def __str__(self):
        return json.dumps(self, ensure_ascii=False)

    __format__ = object.__format__


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value
