"""One criterion's score file: dumps or a probe's result -> score and rank of every module (Eq. 8-15).

The arithmetic is in float64 over the dumps' unrounded float32.
"""

import sys

import numpy as np

from hybrid_lora.common import code, manifest
from hybrid_lora.common.cli import folder
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts import scores
from hybrid_lora.scores import criteria, sources


def run(settings, modules, dumps, measured_on, out):
    """settings: {criterion, model, probe, batches (of criteria with dumps), seed (random)}; modules: modules.json.

    dumps: chunks, or the manifest of an alpha, adalora or autolora training; measured_on: [manifest of the training
    that the dumps must have been measured on], or [].
    """
    listed = modules_file.read(modules)
    name = settings["criterion"]
    if name not in criteria.CRITERIA:
        raise UserError(f"settings: criterion '{name}' is not known; allowed: {', '.join(criteria.CRITERIA)}")
    found = _score(settings, criteria.CRITERIA[name], listed, dumps, measured_on)
    rows = _rows(listed["modules"], found, criteria.CRITERIA[name].direction)
    about = {
        "criterion": name,
        "direction": criteria.CRITERIA[name].direction,
        "batches": found["batches"],
        "model": settings["model"],
        "probe": settings["probe"],
    }
    scores.write(out, rows, about)
    inputs = {"modules": modules, "dumps": dumps, "measured_on": measured_on}
    manifest.write_beside(out, "scores.aggregate", settings, inputs, code.sources("hybrid_lora.scores.aggregate"))
    first = min(rows, key=lambda row: row["rank"])
    print(f"{name}: {len(rows)} modules, {found['batches']} batches, first to full: {first['module']}", file=sys.stderr)


def _score(settings, criterion, listed, dumps, measured_on):
    """{score, importance, mu, sigma, batches}: arrays over modules, None where the criterion has none."""
    nothing = {"importance": None, "mu": None, "sigma": None, "batches": 0}
    if criterion.source is None:
        names = [module["module"] for module in listed["modules"]]
        return nothing | {"score": criteria.random(names, settings["seed"])}
    if not dumps:
        raise UserError(f"criterion {settings['criterion']} is computed from {criterion.source}; --dumps names no file")
    if criterion.source == "warmup":
        return nothing | {"score": sources.alphas(folder(dumps[0]), listed)}
    if criterion.score is None:
        value, importance = sources.importances(folder(dumps[0]), settings["criterion"], listed)
        return nothing | {"score": value, "importance": importance}
    training = folder(measured_on[0]) if measured_on else None
    found = sources.per_batch(criterion.source, dumps, listed, settings["batches"], training)
    mu, sigma = mean_and_deviation(found)
    return nothing | {"score": criterion.score(mu, sigma), "mu": mu, "sigma": sigma, "batches": len(found)}


def mean_and_deviation(values):
    """(mu, sigma) of Eq. 15, float64 [modules], from values [batch, module].

    Where all batches agree sigma is 0 and mu the value, exactly: rounding (20 times 0.1 is not 2) must not decide over guards.
    """
    steady = values.max(axis=0) == values.min(axis=0)
    mu, sigma = values.mean(axis=0), values.std(axis=0)  # ddof=0
    return np.where(steady, values[0], mu), np.where(steady, 0.0, sigma)


def _rows(modules, found, direction):
    ranked = criteria.ranks(found["score"], direction, found["importance"])

    def at(key, i):
        return None if found[key] is None else float(found[key][i])

    return [
        {
            **{key: module[key] for key in ("module", "layer", "type", "params")},
            **{key: at(key, i) for key in ("mu", "sigma", "score", "importance")},
            "rank": int(ranked[i]),
            "batches": found["batches"],
        }
        for i, module in enumerate(modules)
    ]
