"""What the tests of the selection share: a small model's rows, its files, and the command on them."""

from hybrid_lora.allocation import select
from hybrid_lora.contracts import allocation, modules, scores
from hybrid_lora.contracts.modules import TYPES

RANKS = [2, 1, 4, 3]


def rows_of(params, ranks=None):
    return [
        {"module": f"model.layers.{i // 7}.{TYPES[i % 7]}", "layer": i // 7, "type": TYPES[i % 7], "params": p, "rank": r}
        for i, (p, r) in enumerate(zip(params, ranks or range(1, len(params) + 1)))
    ]


def write_modules(folder, rows):
    listed = [{**{k: r[k] for k in ("module", "layer", "type", "params")}, "in_features": 2, "out_features": 3} for r in rows]
    modules.write(folder / "modules.json", {"id": "toy", "revision": None, "architecture_sha256": "0"}, 100, listed)


def write_scores(folder, rows):
    full = [{"mu": None, "sigma": None, "score": 0.0, "batches": 0, **r} for r in rows]
    scores.write(folder / "s.parquet", full, {"probe": "default", "criterion": "hybrid"})


def run(folder, **change):
    chosen = {"unit": "params", "amount": 0.3, "overflow": "stop", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}} | change
    select.run(chosen, folder / "s.parquet", folder / "modules.json", folder / "a.json")
    return allocation.read(folder / "a.json")
