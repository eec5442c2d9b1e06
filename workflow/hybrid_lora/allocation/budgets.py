"""Numbers of tunable parameters at the paper's shapes, beside the paper's own #Tunable (Table 1).

Which modules a trained probe would choose is not known here, so rankings stand for the possible outcomes: smallest modules
first, largest first, random, and Figure 2's picture, attention of the later layers first. Each goes through the greedy
selection that `allocation select` runs, in every unit of the budget: Eq. 4 says share of parameters, the abstract and
Section 4.4 say share of modules, and `absolute` is a number of parameters, the paper's count less LoRA on all modules.
"""

import numpy as np

from hybrid_lora.allocation import budgets_text, checks, shapes
from hybrid_lora.allocation.select import select, trainable
from hybrid_lora.common import code, manifest
from hybrid_lora.common.files import write_text
from hybrid_lora.common.seeds import derive
from hybrid_lora.contracts.modules import TYPES

ATTENTION = ("q", "k", "v", "o")
# Table 1's #Tunable of each placement and size; hybrid is "Hybrid-LoRA (ours)", the same for GRPO and GSPO.
PAPER = {
    "hybrid": {"1.5B": 105e6, "3B": 192e6, "7B": 449e6},
    "lora-ffn": {"1.5B": 122e6},
    "full-ft": {"1.5B": 1544e6, "3B": 3086e6},
}
RANDOM_ORDERS = 101  # odd, so that the median is the count of one of them
SEED = 0


def run(settings, csv_path, md_path):
    """settings: {ratio, absolute (number of parameters, or null: from the paper's count), overflow, lora: {rank}}."""
    _check(settings)
    rows = [row for name in shapes.SHAPES for row in rows_of(name, settings)]
    nearest = [fitted(name, settings["lora"]["rank"]) for name in PAPER["hybrid"]]
    text = budgets_text.markdown(rows, nearest, settings)
    write_text(csv_path, budgets_text.csv_text(rows))
    write_text(md_path, text)
    for artifact in (csv_path, md_path):
        manifest.write_beside(artifact, "allocation.budgets", settings, {}, code.sources("hybrid_lora.allocation.budgets"))
    print(text, end="")


def rows_of(name, settings):
    """All rows of one shape: dicts with budgets_text.COLUMNS as keys; placements first, then units and orders."""
    modules, total = shapes.build(name)
    rank = settings["lora"]["rank"]
    attention = [m["module"] for m in modules if m["type"] in ATTENTION]
    full = {"fft_params": total, "lora_params": 0}
    rows = [
        _row(name, modules, total, {"placement": "full-ft", "modules_full": len(modules), **full}),
        _row(name, modules, total, {"placement": "lora", **_counts(modules, [], rank)}),
        _row(name, modules, total, {"placement": "lora-ffn", **_counts(modules, attention, rank)}),
    ]
    for unit, amount in _budgets(name, settings, rows[1]["lora_params"]).items():
        for order, rankings in orders(name, modules).items():
            budget = {"placement": "hybrid", "unit": unit, "amount": amount, "overflow": settings["overflow"], "order": order}
            counts = [_select(modules, ranks, budget, rank) for ranks in rankings]
            median = sorted(counts, key=lambda c: c["fft_params"] + c["lora_params"])[len(counts) // 2]
            rows.append(_row(name, modules, total, {**budget, **median}))
    return rows


def fitted(name, rank):
    """How far down Figure 2's order one must go to come nearest to the paper's count: {shape, modules_full, ...}.

    It shows what share the paper's counts would need; no row of the table and no preset is made from it.
    """
    modules, _ = shapes.build(name)
    (ranks,) = orders(name, modules)["figure-2"]
    ranked = [{**module, "rank": place} for module, place in zip(modules, ranks, strict=True)]
    names, _ = select(ranked, "modules", 1, "stop")
    found = [_counts(modules, names[:count], rank) for count in range(len(names) + 1)]
    best = min(found, key=lambda c: abs(c["fft_params"] + c["lora_params"] - PAPER["hybrid"][name]))
    return {
        "shape": name,
        "modules_full": best["modules_full"],
        "modules_share": best["modules_full"] / len(modules),
        "params_share": best["fft_params"] / sum(m["params"] for m in modules),
        "tunable_params": best["fft_params"] + best["lora_params"],
    }


def orders(name, modules):
    """{order: rankings}, each a list of module ranks from 1; one ranking an order, RANDOM_ORDERS of random."""
    size = [m["params"] for m in modules]
    # The last layer's q, k, v, o, then the layer before; once no attention is left, the FFN modules likewise.
    later = [(m["type"] not in ATTENTION, -m["layer"], TYPES.index(m["type"])) for m in modules]
    seeds = [derive(SEED, "budgets-order", name, i) for i in range(RANDOM_ORDERS)]
    return {
        "smallest": [_ranks(size)],
        "largest": [_ranks([-value for value in size])],
        "random": [(np.random.default_rng(seed).permutation(len(modules)) + 1).tolist() for seed in seeds],
        "figure-2": [_ranks(later)],
    }


def _ranks(keys):
    """Ranks from 1 by ascending key; equal keys share one, so the selection's own rule breaks the tie."""
    place = {key: i for i, key in enumerate(sorted(set(keys)), 1)}
    return [place[key] for key in keys]


def _budgets(name, settings, lora_on_all):
    """{unit: amount}; `absolute` is left out where neither the settings nor the paper give a number."""
    absolute = settings["absolute"]
    if absolute is None and name in PAPER["hybrid"]:
        absolute = round(PAPER["hybrid"][name]) - lora_on_all
    shares = {"params": settings["ratio"], "modules": settings["ratio"]}
    return shares if absolute is None or absolute < 1 else {**shares, "absolute": absolute}


def _select(modules, ranks, budget, rank):
    ranked = [{**module, "rank": place} for module, place in zip(modules, ranks, strict=True)]
    names, _ = select(ranked, budget["unit"], budget["amount"], budget["overflow"])
    return _counts(modules, names, rank)


def _counts(modules, fft, rank):
    full, lora = trainable(modules, fft, rank)
    return {"modules_full": len(fft), "fft_params": full, "lora_params": lora}


def _row(name, modules, total, values):
    tunable = values["fft_params"] + values["lora_params"]
    paper = PAPER.get(values["placement"], {}).get(name)
    known = {
        "shape": name,
        "total_params": total,
        "candidates": len(modules),
        "candidate_params": sum(m["params"] for m in modules),
        "tunable_params": tunable,
        "paper_params": None if paper is None else round(paper),
        "off": None if paper is None else tunable / paper - 1,
    }
    return {column: {**known, **values}.get(column) for column in budgets_text.COLUMNS}


def _check(settings):
    where = "budgets settings"
    checks.keys(settings, ("ratio", "absolute", "overflow", "lora"), where)
    checks.share(settings["ratio"], "ratio", where)
    if settings["absolute"] is not None:
        checks.limit(settings["absolute"], "absolute", where)
    checks.choice(settings, "overflow", checks.OVERFLOWS, where)
    checks.rank(settings["lora"], where)
    checks.keys(settings["lora"], ("rank",), f"{where}, key 'lora'")
