"""Checks of config `probes`: divisibility, references, enough validation rows. Only what the criteria at hand use is checked."""

from hybrid_lora.config import words
from hybrid_lora.config.probing import SOURCES, WARMUPS

# kind of dump -> (section of a probe, its key for the number of batches)
BATCHES = {
    "sensitivity": ("sensitivity", "partitions"),
    "full-sensitivity": ("sensitivity", "partitions"),
    "perturbation": ("perturbation", "batches"),
}


def check(values, name, method, criteria, origin):
    """UserError on the first mistake; returns the corpora needed, as (path of the key, corpus).

    method: one that uses the probe, for the message; criteria: all that are computed from it.
    """
    if name not in values["probes"]:
        raise origin.error(("methods", method, "probe"), f"probe {words.choice(name, values['probes'])}")
    probe, path = values["probes"][name], ("probes", name)
    for section, key in dict.fromkeys(BATCHES[SOURCES[c]] for c in criteria if SOURCES[c] in BATCHES):
        total, chunk = probe[section][key], probe[section]["batches_per_chunk"]
        if total % chunk:
            raise origin.error((*path, section, "batches_per_chunk"), f"is {chunk}, must divide {key}, {total}")
    _check_training(values, probe, path, criteria, origin)
    return [((*path, "corpus"), probe["corpus"])]


def objectives(values, name, criteria):
    """The RL objective that the probe's warm-up uses, as a list."""
    used = any(SOURCES[c] == "warmup" or WARMUPS.get(SOURCES[c]) == "warmup" for c in criteria)
    objective = values["probes"][name]["warmup"]["objective"]
    return [objective] if used and objective != "nll" else []


def _check_training(values, probe, path, criteria, origin):
    warmup = probe["warmup"]
    if warmup["batch_size"] % warmup["device_batch_size"] and warmup["device_batch_size"] < warmup["batch_size"]:
        what = f"is {warmup['device_batch_size']}, must divide batch_size, {warmup['batch_size']}"
        raise origin.error((*path, "warmup", "device_batch_size"), what)
    trained = {n: o["algorithm"] for n, o in values["objectives"].items() if o["algorithm"] != "sft"}
    if warmup["objective"] not in ("nll", *trained):
        raise origin.error((*path, "warmup", "objective"), words.choice(warmup["objective"], ["nll", *trained]))
    if "adalora" in criteria:
        _check_adalora(probe["adalora"], warmup["steps"], (*path, "adalora"), origin)


def _check_adalora(entry, steps, path, origin):
    if entry["initial_rank"] <= entry["target_rank"]:
        what = f"is {entry['initial_rank']}, must be more than target_rank, {entry['target_rank']}: AdaLoRA prunes"
        raise origin.error((*path, "initial_rank"), what)
    if round(entry["initial_share"] * steps) >= steps - round(entry["final_share"] * steps):
        what = f"with initial_share {entry['initial_share']} and {steps} warm-up steps no step is left to prune in"
        raise origin.error((*path, "final_share"), f"is {entry['final_share']}; {what}")


def check_validation(values, name, criteria, origin):
    """The validation batches are disjoint: the corpus must hold out enough rows."""
    probe = values["probes"][name]
    held = values["corpora"][probe["corpus"]]["validation_rows"]
    for section, key in dict.fromkeys(BATCHES[SOURCES[c]] for c in criteria if SOURCES[c] in BATCHES):
        needed = probe[section][key] * probe[section]["batch_size"]
        if held < needed:
            what = f"is {held}, probe '{name}' needs {key} * batch_size = {needed} rows"
            raise origin.error(("corpora", probe["corpus"], "validation_rows"), what)
