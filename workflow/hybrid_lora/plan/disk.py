"""Disk use of a run's files, at most; the model's and the probe's are shared with other runs of theirs."""

from hybrid_lora.common import checkpoints
from hybrid_lora.config import probing

TOKEN = 2.5  # bytes of a token of text in compressed Parquet
DUMPED = 12  # bytes of a sensitivity in compressed Parquet


def files(values, run, shape, trained, objective, fill):
    """[(what, bytes)]. The state is there while a run trains: see checkpoints.disk_bytes."""
    found = [("model (linked where it is local or from the hub)", 2 * shape.total)]
    method = values["methods"][run.method]
    if method["placement"] == "criterion":
        found += _probe(values["probes"][method["probe"]], probing.SOURCES[method["criterion"]], shape)
    if objective:
        keep = values.get("checkpoints", {}).get("keep", checkpoints.DEFAULTS["keep"])
        found.append((f"training state, {keep} checkpoints kept", checkpoints.disk_bytes(trained.total, keep)))
        found.append(("policy", 4 * trained.total))
    entries = [values["benchmarks"][name] for name in values["evaluation"]["benchmarks"]]
    tokens = sum((e["subset"] or e["problems"]) * e["samples"] * e["max_new_tokens"] * fill for e in entries)
    return [*found, ("completions of the evaluation", int(TOKEN * tokens))]


def _probe(entry, kind, shape):
    """A probe's warm-up and dumps."""
    lora = sum(entry["rank"] * (c.in_features + c.out_features + 1) for c in shape.candidates)
    if kind == "full-sensitivity":
        return [("full fine-tuning of the probe", 4 * shape.total), ("its resumable state", 12 * shape.total)]
    if kind is None:
        return []
    found = [("probe's warm-up", 4 * lora), ("its resumable state", 12 * lora)]
    if kind == "sensitivity":
        rows = entry["sensitivity"]["partitions"] * len(shape.candidates) * entry["rank"]
        found.append(("sensitivities", DUMPED * rows))
    return found
