"""Disk use of a run's files, at most; the corpora, the model and the probe are shared with other runs of theirs."""

from hybrid_lora.common import checkpoints
from hybrid_lora.config import probing
from hybrid_lora.contracts.corpus_names import HUB_ROWS

TOKEN = 2.5  # bytes of a token of text in compressed Parquet
GENERATED = 64  # tokens of a generated conversation
DUMPED = 12  # bytes of a sensitivity in compressed Parquet
AVERAGES = 3  # that AdaLoRA keeps of every weight, beside it and AdamW's two moments


def files(values, run, shape, trained, objective, fill):
    """[(what, bytes, or None where nobody knows before)]. The states are there while a job runs: see checkpoints.disk_bytes."""
    keep = values.get("checkpoints", {}).get("keep", checkpoints.DEFAULTS["keep"])
    method, scratch = values["methods"][run.method], values["models"][run.model]["source"] == "scratch"
    kind = probing.SOURCES[method["criterion"]] if method["placement"] == "criterion" else None
    probe = values["probes"][method["probe"]] if kind else None
    found = [(f"corpus {name}", _corpus(values["corpora"][name])) for name in _corpora(values, run, objective, probe)]
    if scratch:
        found.append(("model", 4 * shape.total))
        found.append((f"its resumable state, {keep} checkpoints kept", _states(checkpoints.size_bytes(shape.total), keep)))
    else:
        found.append(("model (linked where it is local or from the hub)", 2 * shape.total))
    if kind:
        found += _probe(probe, kind, shape, keep)
    if objective:
        found.append((f"training state, {keep} checkpoints kept", checkpoints.disk_bytes(trained.total, keep)))
        found.append(("policy", 4 * trained.total))
    entries = [values["benchmarks"][name] for name in values["evaluation"]["benchmarks"]]
    tokens = sum((e["subset"] or e["problems"]) * e["samples"] * e["max_new_tokens"] * fill for e in entries)
    return [*found, ("completions of the evaluation", int(TOKEN * tokens))]


def _corpora(values, run, objective, probe):
    """Names of the corpora that a run, its model and its probe read."""
    names = [objective["corpus"], objective.get("code_corpus")] if objective else []
    names += [probe["corpus"]] if probe else []
    return filter(None, dict.fromkeys([*names, values["models"][run.model].get("corpus")]))


def _corpus(entry):
    """Most bytes of a corpus, None where its number of rows is not known."""
    if entry["data"] == "generated":
        return int(TOKEN * entry["generated"]["rows"] * GENERATED)
    hub = entry.get("hub", {}) if entry["data"] == "hub" else {}
    rows = [entry["rows"], HUB_ROWS.get((hub.get("repo"), hub.get("config")))]
    rows = [number for number in (*rows, entry["max_rows"] and entry["max_rows"] + entry["validation_rows"]) if number]
    return int(TOKEN * min(rows) * entry["max_tokens"]) if rows else None


def _states(size, keep):
    """Bytes of the checkpoints kept and of the one being written."""
    return (keep + 1) * size


def _probe(entry, kind, shape, keep):
    """A probe's warm-up and dumps."""

    def branches(rank):
        return sum(rank * (c.in_features + c.out_features + 1) for c in shape.candidates)

    state = f"its resumable state, {keep} checkpoints kept"
    if kind == "adalora":
        size = (4 * AVERAGES + 12) * branches(entry["adalora"]["initial_rank"])
        return [("AdaLoRA's resumable state", _states(size, keep))]
    lora = branches(entry["rank"])
    if kind == "autolora":
        return [("AutoLoRA's resumable state", _states(checkpoints.size_bytes(lora), keep))]
    if kind == "full-sensitivity":
        return [("full fine-tuning of the probe", 4 * shape.total), (state, _states(checkpoints.size_bytes(shape.total), keep))]
    found = [("probe's warm-up", 4 * lora), (state, _states(checkpoints.size_bytes(lora), keep))]
    if kind == "sensitivity":
        rows = entry["sensitivity"]["partitions"] * len(shape.candidates) * entry["rank"]
        found.append(("sensitivities", DUMPED * rows))
    return found
