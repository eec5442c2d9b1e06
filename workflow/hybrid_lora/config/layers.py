"""Configuration files laid over one another, and which of them set a key."""

import os
from pathlib import Path

import yaml

from hybrid_lora.common.errors import UserError

BOTTOM = "config/config.yaml"
COMMAND_LINE = "--config"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MISSING = object()


def read_yaml(path):
    """The mapping in a YAML file; UserError if it is missing, not YAML, or something else than a mapping."""
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or error.__class__.__name__})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no keys; a configuration file is a mapping")
    return value


def merge(below, above):
    """`above` laid over `below` as Snakemake does it: mappings key by key, anything else replaced. Returns new mappings.

    New ones all the way down: YAML anchors make two entries share a mapping, which an in-place merge would change twice.
    """
    merged = {key: merge({}, value) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        if isinstance(value, dict):
            under = merged.get(key)
            value = merge(under if isinstance(under, dict) else {}, value)
        merged[key] = value
    return merged


def command_line(assignments):
    """The mapping of `key=value` texts as given to --config; values are YAML."""
    values = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"{COMMAND_LINE}: '{text}' is not key=value")
        try:
            values = merge(values, {key: yaml.load(value, _Loader)})
        except yaml.YAMLError:
            raise UserError(f"{COMMAND_LINE}: {key}: value is not YAML") from None
    return values


class Origin:
    """Knows which file set a key: the last one that does, as it wins."""

    def __init__(self, values, files, base):
        """files: as Snakemake lists them, config/config.yaml anywhere among them; it lies at the bottom all the same."""
        self.values = values
        shown = [
            os.path.relpath(Path(base, file), base) if Path(base, file).is_relative_to(base) else str(file) for file in files
        ]
        ordered = sorted(zip(shown, files), key=lambda pair: Path(pair[0]) != Path(BOTTOM))
        self.layers = [(name, read_yaml(Path(base, file))) for name, file in ordered]

    def error(self, path, what):
        """UserError for the key at `path` (a sequence of names and list positions)."""
        return UserError(" ".join(f"{self.of(path)}: {dotted(path)}: {what}".split("\n")))

    def of(self, path):
        """The file that sets `path`, or --config; for a key set nowhere, the file that sets what it would belong to."""
        for length in range(len(path), 0, -1):
            value = _get(self.values, path[:length])
            if value is _MISSING:
                continue
            for name, layer in reversed(self.layers):
                found = _get(layer, path[:length])
                if found is not _MISSING:
                    return name if isinstance(value, dict) or found == value else COMMAND_LINE
            return COMMAND_LINE
        return self.layers[-1][0] if self.layers else COMMAND_LINE


def _shown(path, base):
    return os.path.relpath(path, base) if path.is_relative_to(base) else str(path)


def dotted(path):
    """objectives.gspo.sources[1]"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "(top level)"


def _get(value, path):
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return value
