"""Greedy selection under the budget (Eq. 4, Algorithm 2 lines 8-10): in order of rank, while the budget holds.

Budget units: `params` (Eq. 4: share of candidate parameters, bias included), `modules` (abstract and Section 4.4: share
of the number of modules), `absolute` (a number of parameters). When the next module no longer fits, `overflow: stop`
ends the selection there, `skip` goes on to smaller ones further down; the paper does not say, stop is its greedy text.
"""

import sys
from fractions import Fraction

from hybrid_lora.allocation import checks
from hybrid_lora.common import code, manifest
from hybrid_lora.common.files import sha256_file
from hybrid_lora.contracts import allocation
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts import scores as scores_file
from hybrid_lora.contracts.modules import TYPES


def run(settings, scores, modules, out):
    """settings: {unit, amount, overflow, lora: {rank, alpha, dropout}}."""
    _check(settings)
    rows, about = scores_file.read(scores)
    listed = modules_file.read(modules)
    checks.modules(modules, listed["modules"])
    checks.scores(scores, rows, about, listed["modules"])
    fft, used = select(rows, settings["unit"], settings["amount"], settings["overflow"])
    # In order of layers, not of the file: which module comes first in modules.json means nothing.
    in_order = sorted(listed["modules"], key=_tie)
    lora_rows = [row for row in in_order if row["module"] not in set(fft)]
    fft_params, lora_params = trainable(in_order, fft, settings["lora"]["rank"])
    amount = {"limit" if settings["unit"] == "absolute" else "ratio": settings["amount"]}
    result = {
        "schema_version": allocation.SCHEMA_VERSION,
        "model": listed["model"],
        "probe": about["probe"],
        "criterion": about["criterion"],
        "scores": {"path": str(scores), "sha256": sha256_file(scores)},
        "budget": {"unit": settings["unit"], **amount, "used": used},
        "overflow": settings["overflow"],
        "ties": "layer, type",
        "fft": fft,
        "lora": {**settings["lora"], "names": [row["module"] for row in lora_rows]},
        "counts": {"fft": len(fft), "lora": len(lora_rows), "trainable": fft_params + lora_params, "candidates": len(rows)},
    }
    allocation.write(out, result)
    inputs = {"scores": scores, "modules": modules}
    manifest.write_beside(out, "allocation.select", settings, inputs, code.sources("hybrid_lora.allocation.select"))
    if not fft:
        print(f"warning: the budget ({settings['unit']} {settings['amount']}) holds no module; all get LoRA", file=sys.stderr)
    print(f"{len(fft)} of {len(rows)} modules in full, {fft_params:,} + {lora_params:,} LoRA parameters", file=sys.stderr)


def select(rows, unit, amount, overflow):
    """(names in order of selection, used budget in the unit of `amount`).

    rows: dicts with module, layer, type, params, rank. The used budget never exceeds the amount.
    """
    size = {row["module"]: 1 if unit == "modules" else row["params"] for row in rows}
    # Exact: in floating point 0.29 * 100 is 28.999999999999996 and the 29th module would not fit.
    limit = Fraction(str(amount)) * (1 if unit == "absolute" else sum(size.values()))
    names, total = [], 0
    for row in sorted(rows, key=lambda row: (row["rank"], *_tie(row))):
        if total + size[row["module"]] <= limit:
            names.append(row["module"])
            total += size[row["module"]]
        elif overflow == "stop":
            break
    return names, total if unit == "absolute" else total / sum(size.values())


def trainable(modules, fft, rank):
    """(parameters of the modules named in `fft`, LoRA parameters of the others: rank * (in + out) each)."""
    chosen = set(fft)
    full = sum(row["params"] for row in modules if row["module"] in chosen)
    return full, sum(rank * (row["in_features"] + row["out_features"]) for row in modules if row["module"] not in chosen)


def _tie(row):
    return row["layer"], TYPES.index(row["type"])


def _check(settings):
    where = "allocation settings"
    checks.keys(settings, ("unit", "amount", "overflow", "lora"), where)
    checks.choice(settings, "unit", checks.UNITS, where)
    checks.choice(settings, "overflow", checks.OVERFLOWS, where)
    (checks.limit if settings["unit"] == "absolute" else checks.share)(settings["amount"], "amount", where)
    checks.rank(settings["lora"], where)
