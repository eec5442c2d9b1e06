"""Sensitivity dumps -> score file: s = (1/r) ||e * g||_1 per batch (Eq. 12), then mu, sigma and the criterion.

The arithmetic is in float64 over the dumps' unrounded float32.
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts import scores, sensitivity
from hybrid_lora.scores import criteria


def run(settings, modules, dumps, out):
    """settings: {criterion, model, probe, partitions, seed}; modules: modules.json; dumps: sensitivity chunks."""
    listed = modules_file.read(modules)["modules"]
    names = [module["module"] for module in listed]
    criterion = settings["criterion"]
    if criterion == "random":
        mu = sigma = [None] * len(names)
        values, direction, batches = criteria.random(names, settings["seed"]), "ascending", 0
    else:
        batches = settings["partitions"]
        per_batch = sensitivities(dumps, names, batches)
        mu, sigma = per_batch.mean(axis=0), per_batch.std(axis=0)  # ddof=0: Eq. 15
        aggregate, direction = criteria.FROM_SENSITIVITY[criterion]
        values = aggregate(mu, sigma)
        mu, sigma = mu.tolist(), sigma.tolist()
    ranked = criteria.ranks(values, direction)
    rows = [
        {
            **{key: module[key] for key in ("module", "layer", "type", "params")},
            "mu": mu[i],
            "sigma": sigma[i],
            "score": float(values[i]),
            "rank": int(ranked[i]),
            "batches": batches,
        }
        for i, module in enumerate(listed)
    ]
    about = {
        "criterion": criterion,
        "direction": direction,
        "batches": batches,
        "model": settings["model"],
        "probe": settings["probe"],
    }
    scores.write(out, rows, about)
    inputs = {"modules": modules, "sensitivity": dumps}
    manifest.write_beside(out, "scores.aggregate", settings, inputs, code.sources("hybrid_lora.scores.aggregate"))
    first = min(rows, key=lambda row: row["rank"])
    print(f"{criterion}: {len(rows)} modules, {batches} batches, first to full fine-tuning: {first['module']}", file=sys.stderr)


def sensitivities(dumps, names, batches):
    """Array s[batch, module] in float64 (Eq. 12) for batches 0..`batches`-1 and modules in the order of `names`.

    Raises UserError on dumps of different warm-ups, other modules, missing batches or values that are not finite.
    """
    tables, warmups = [], {}
    for path in dumps:
        table, about = sensitivity.read(path)
        warmups[about.get("warmup_sha256")] = path
        tables.append(table)
    if len(warmups) > 1:
        one, other = list(warmups.values())[:2]
        raise UserError(f"{other}: computed with another warm-up than {one}; recompute the sensitivities of this probe")
    table = pa.concat_tables(tables)
    table = table.filter(pc.less(table["batch"], batches))
    foreign = sorted(set(pc.unique(table["module"]).to_pylist()) ^ set(names))
    if foreign:
        raise UserError(f"{dumps[0]}: module '{foreign[0]}' is not in both the dumps and the model; a dump of another model?")
    product = pc.abs(pc.multiply(pc.cast(table["e"], pa.float64()), pc.cast(table["grad"], pa.float64())))
    table = table.append_column("product", product)
    grouped = table.group_by(["batch", "module"]).aggregate([("product", "mean")])
    result = np.full((batches, len(names)), np.nan)
    column = {name: i for i, name in enumerate(names)}
    where = [column[name] for name in grouped["module"].to_pylist()]
    result[grouped["batch"].to_numpy(), where] = grouped["product_mean"].to_numpy()
    bad = np.argwhere(~np.isfinite(result))
    if len(bad):
        t, i = bad[0]
        raise UserError(f"{dumps[0]}: batch {t} of module {names[i]} is missing or not finite in the sensitivity dumps")
    return result
