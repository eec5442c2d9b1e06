"""What the allocation commands refuse, each as one line: settings out of range, score files that do not fit the model."""

import math

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts.modules import TYPES

UNITS = ("params", "modules", "absolute")
OVERFLOWS = ("stop", "skip")
MODULE_KEYS = ("module", "layer", "type", "params", "in_features", "out_features")
SCORE_KEYS = ("module", "layer", "type", "params", "score", "rank")


def keys(settings, needed, where):
    """UserError naming the first of `needed` that `settings` lacks, or the first key it has beyond them."""
    missing = [key for key in needed if not isinstance(settings, dict) or key not in settings]
    if missing:
        raise UserError(f"{where}: key '{missing[0]}' is missing; needed are {', '.join(needed)}")
    unknown = sorted(set(settings) - {*needed, "packages"})  # versions that the workflow records
    if unknown:
        raise UserError(f"{where}: unknown key '{unknown[0]}'; allowed: {', '.join(needed)}")


def choice(settings, key, allowed, where):
    """UserError unless `settings[key]` is one of `allowed`."""
    if settings[key] not in allowed:
        raise UserError(f"{where}: key '{key}' is {settings[key]!r}; allowed: {', '.join(allowed)}")


def share(value, key, where):
    """UserError unless `value` is a number above 0 and at most 1."""
    if not _number(value) or not 0 < value <= 1:
        raise UserError(f"{where}: key '{key}' is {value!r}; allowed: a share above 0 and at most 1")


def limit(value, key, where):
    """UserError unless `value` is a number of parameters, 1 or more."""
    if not _number(value) or value < 1:
        raise UserError(f"{where}: key '{key}' is {value!r}; allowed: a number of parameters, 1 or more")


def rank(lora, where):
    """UserError unless `lora` holds a rank of 1 or more."""
    value = lora.get("rank") if isinstance(lora, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: key 'lora.rank' is {value!r}; allowed: 1, 2, ...")


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scores(path, rows, about, listed):
    """UserError unless the score file `path` ranks exactly the `listed` modules of modules.json.

    rows, about: its rows and metadata; layer, type and params must agree, scores must be numbers (infinite ones are), and
    ranks 1..n, each once.
    """
    for key in ("probe", "criterion"):
        if key not in about:
            raise UserError(f"{path}: metadata key '{key}' is missing; not a file of the scores stage")
    for row in rows:
        empty = next((key for key in SCORE_KEYS if row[key] is None), None)
        if empty or math.isnan(row["score"]):
            where = f"module '{row['module']}'" if row["module"] else "a row"
            raise UserError(f"{path}: column '{empty or 'score'}' of {where} is {'empty' if empty else 'not a number'}")
    ours, theirs = ({row["module"]: _identity(row) for row in some} for some in (rows, listed))
    wrong = sorted(set(ours) ^ set(theirs)) or sorted(name for name in ours if ours[name] != theirs[name])
    if wrong or len(rows) != len(ours):
        name = wrong[0] if wrong else "(listed twice)"
        raise UserError(f"{path}: module '{name}' does not agree with the model's list; scores of another model?")
    if sorted(row["rank"] for row in rows) != list(range(1, len(rows) + 1)):
        raise UserError(f"{path}: column 'rank' must hold 1..{len(rows)}, each once")


def _identity(row):
    return row["layer"], row["type"], row["params"]


def modules(path, listed):
    """UserError unless every entry of modules.json has the keys that allocation reads and a known type, and is there once."""
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: key 'modules' holds no modules; not a module list of the model stage")
    for entry in listed:
        missing = [key for key in MODULE_KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise UserError(f"{path}: key '{missing[0]}' of a module is missing; not a module list of the model stage")
        if entry["type"] not in TYPES:
            allowed = ", ".join(TYPES)
            raise UserError(f"{path}: key 'type' of module '{entry['module']}' is {entry['type']!r}; allowed: {allowed}")
    names = [entry["module"] for entry in listed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{path}: module '{twice}' is listed twice; not a module list of the model stage")
