"""What criteria read: per-batch dumps as arrays [batch, module] in float64, or one value a module.

Whatever does not belong together (other model, other warm-up, missing or doubled batches, values that are not finite)
is refused with the file, module and batch named. Dumps are read one chunk at a time, so memory does not grow with K.
"""

import sys

import numpy as np

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import importance as importance_file
from hybrid_lora.contracts import measurements, probe_state, sensitivity, tables, weights

COLUMNS = ("batch", "module", "component", "e", "grad")
PER_BATCH = ("batch", "module", "value")
ANY = ("batches_per_chunk", "batches", "gradient_checkpointing")  # settings of a dump on which no number in it depends


def per_batch(kind, dumps, listed, batches, measured_on=None):
    """Array [batch, module] of batches 0..`batches`-1 in the order of the candidates.

    kind: sensitivity (s = (1/r) ||e * g||_1, Eq. 12), or a kind of contracts/measurements (its value); dumps: paths of
    the chunks; listed: a modules.json as read; measured_on: folder of the training that they must have been measured on.
    """
    names = [module["module"] for module in listed["modules"]]
    column = {name: i for i, name in enumerate(names)}
    total, count = np.zeros((batches, len(names))), np.zeros((batches, len(names)), dtype=np.int64)
    origin = _Origin(kind, listed["model"], measured_on)
    for path in dumps:
        table, about = _load(kind, path)
        origin.check(path, about)
        where, rows = _places(path, table, column, batches)
        if kind == "sensitivity":
            values = np.abs(table["e"].to_numpy().astype(np.float64) * table["grad"].to_numpy().astype(np.float64))
        else:
            values = table["value"].to_numpy()
        total += np.bincount(where, values[rows], minlength=total.size).reshape(total.shape)
        new = np.bincount(where, minlength=total.size).reshape(total.shape)
        _not_twice(path, names, count, new)
        count += new
    _complete(dumps, names, total, count)
    return total / count


def _load(kind, path):
    schema, columns = (sensitivity.SCHEMA, COLUMNS) if kind == "sensitivity" else (measurements.SCHEMA, PER_BATCH)
    table, about = tables.read_with_metadata(path, schema, f"probe {kind}", columns)
    empty = next((name for name in columns if table[name].null_count), None)
    if empty:
        raise UserError(f"{path}: column '{empty}' has empty cells; probe {kind} leaves none")
    return table, about


class _Origin:
    """What all dumps behind one score share: kind, model, warm-up and settings; UserError on one that differs."""

    def __init__(self, kind, model, measured_on):
        self.kind, self.model = kind, model
        self.warmup, self.present = (weights.sha256(measured_on), True) if measured_on else (None, False)
        self.first = self.settings = None

    def check(self, path, about):
        """path: of a dump; about: its metadata. A dump that does not say its warm-up is taken with a warning."""
        if about.get("kind", self.kind) != self.kind:
            raise UserError(f"{path}: holds {about['kind']}, {self.kind} is needed here")
        _same_model(path, about, self.model)
        self._same_settings(path, about)
        self.first = self.first or path
        found = about.get("warmup_sha256")
        if found is None:
            print(f"warning: {path} does not say which warm-up it was computed with; taken as it is", file=sys.stderr)
            return
        if self.warmup is not None and found != self.warmup:
            other = "than the probe's present one" if self.present else f"than {self.first}"
            raise UserError(f"{path}: computed with another warm-up {other}; recompute the dumps of this probe")
        self.warmup = found

    def _same_settings(self, path, about):
        found = {key: value for key, value in (about.get("settings") or {}).items() if key not in ANY}
        if self.settings is None or not found:
            self.settings = found or self.settings
            return
        wrong = next((key for key in sorted({*found, *self.settings}) if found.get(key) != self.settings.get(key)), None)
        if wrong:
            ours, theirs = self.settings.get(wrong), found.get(wrong)
            raise UserError(f"{path}: computed with {wrong} {theirs!r}, {self.first} with {ours!r}; all dumps must be alike")


def _same_model(path, about, model):
    theirs = about.get("model", model)
    if theirs != model:
        raise UserError(f"{path}: computed on model {theirs.get('id')} ({_short(theirs)}), not {model['id']} ({_short(model)})")


def _short(model):
    return f"revision {model.get('revision')}, architecture {str(model.get('architecture_sha256'))[:8]}"


def _places(path, table, column, batches):
    """(flat index batch * modules + module, row number) of each wanted row, in the order of batch, module and component.

    That order makes sums the same to the last bit whatever the order of a file's rows. No component may be there twice.
    """
    encoded = table["module"].combine_chunks().dictionary_encode()
    present = encoded.dictionary.to_pylist()
    foreign = sorted(set(present) ^ set(column))
    if foreign:
        raise UserError(f"{path}: module '{foreign[0]}' is not in both the dumps and the model; a dump of another model?")
    module = np.array([column[name] for name in present])[encoded.indices.to_numpy()]
    batch = table["batch"].to_numpy()
    rows = np.flatnonzero((batch >= 0) & (batch < batches))
    where = batch[rows].astype(np.int64) * len(column) + module[rows]
    component = table["component"].to_numpy()[rows].astype(np.int64) if "component" in table.column_names else 0 * where
    order = np.lexsort((component, where))
    where, component = where[order], component[order]
    twice = np.flatnonzero((where[1:] == where[:-1]) & (component[1:] == component[:-1]))
    if len(twice):
        t, i = divmod(int(where[twice[0]]), len(column))
        raise UserError(f"{path}: batch {t} of module {list(column)[i]} is listed twice")
    return where, rows[order]


def _not_twice(path, names, count, new):
    twice = np.argwhere((count > 0) & (new > 0))
    if len(twice):
        t, i = twice[0]
        raise UserError(f"{path}: batch {t} of module {names[i]} is in another dump too; each batch must be given once")


def _complete(dumps, names, total, count):
    """Every batch and module has all its components, and their sum is finite."""
    missing = np.argwhere((count == 0) | (count != count.max()) | ~np.isfinite(total))
    if len(missing):
        t, i = missing[0]
        where = dumps[0] if len(dumps) == 1 else f"{len(dumps)} dumps from {dumps[0]}" if dumps else "no dump given"
        raise UserError(f"{where}: batch {t} of module {names[i]} is missing or not finite")


def alphas(folder, listed):
    """|alpha| of every module (Eq. 8), float64, from the folder of a probe's warm-up."""
    found = probe_state.alphas(folder / "probe.safetensors")
    names = [module["module"] for module in listed["modules"]]
    foreign = sorted(set(found) ^ set(names))
    if foreign:
        raise UserError(f"{folder}: module '{foreign[0]}' is not in both the warm-up and the model; of another model?")
    return _finite(folder, names, np.array([abs(found[name]) for name in names], dtype=np.float64))


def importances(folder, criterion, listed):
    """(value, importance) of every module, float64, from the folder of an adalora or autolora probe."""
    path = folder / importance_file.NAME
    rows, about = importance_file.read(path)
    if about.get("criterion", criterion) != criterion:
        raise UserError(f"{path}: holds {about['criterion']}, {criterion} is needed here")
    _same_model(path, about, listed["model"])
    names = [module["module"] for module in listed["modules"]]
    found = {row["module"]: row for row in rows}
    foreign = sorted(set(found) ^ set(names))
    if foreign or len(found) != len(rows):
        name = foreign[0] if foreign else "(listed twice)"
        raise UserError(f"{path}: module '{name}' is not in both the file and the model; of another model?")
    value = _finite(path, names, np.array([found[name]["value"] for name in names], dtype=np.float64))
    return value, _finite(path, names, np.array([found[name]["importance"] for name in names], dtype=np.float64))


def _finite(path, names, values):
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UserError(f"{path}: the value of module {names[wrong[0]]} is not finite")
    return values
