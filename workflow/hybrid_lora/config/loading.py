"""`load`: everything that is known to be wrong before the first job is said here, in one line."""

from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_lora.config import checks, compute, layers, runs, schema
from hybrid_lora.config.runs import Run

__all__ = ["DEFAULT", "Config", "Run", "load", "read"]

DEFAULT = "config/config.yaml"  # what the Snakefile names


@dataclass(frozen=True)
class Config:
    """values: the configuration with defaults filled in; runs: one Run for each line of the runs table, in its order."""

    values: dict
    runs: list


def load(values, files, base):
    """The checked configuration.

    values: merged configuration (left as it is); files: the configuration files it was merged from, for messages (the
    last one that sets a key is named); base: the folder that relative paths start from (where the Snakefile lies).
    Raises UserError: one line with the file, the key, what is wrong and what is allowed.
    """
    base = Path(base).absolute()
    origin = layers.Origin(values, files, base)
    filled = _filled(values, origin)
    table = runs.read(filled, base, origin)
    checks.check(filled, table, base, origin)
    return Config(filled, [row.run for row in table])


def check_run(values, files, base, run):
    """UserError where a Run that the table does not hold like this could not be made; the others as for `load`."""
    base = Path(base).absolute()
    origin = layers.Origin(values, files, base)
    filled = _filled(values, origin)
    rows = [replace(row, run=run) for row in runs.read(filled, base, origin) if row.run.run == run.run]
    checks.check_used(filled, rows, base, origin)


def _filled(values, origin):
    """The values with defaults and, in place of `auto`, what it stands for here."""
    filled = schema.fill(values, origin)
    for objective in filled["objectives"].values():
        if objective.get("rollouts") == "auto":
            objective["rollouts"] = compute.rollouts(filled)
    return filled


def read(configfiles, assignments, base):
    """The checked configuration of files laid over config/config.yaml, and of key=value texts over those, as for `snakemake`."""
    files = [DEFAULT, *(file for file in configfiles if file != DEFAULT)]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(Path(base, file)))
    return load(layers.merge(values, layers.command_line(assignments)), files, base)
