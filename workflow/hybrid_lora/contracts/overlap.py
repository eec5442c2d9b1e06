"""results/data/{corpus}/overlap.parquet: which rows of a corpus share text with which problems of the benchmarks.

id: of the corpus' row; split: train | val; benchmark, problem: name and id; shared: distinct n-grams of the problem that the
row's prompt holds, share: their part of all of the problem's; a problem of fewer than n words counts as one n-gram. Only
ids, no text. The Parquet metadata holds `n`.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("id", "split", "benchmark", "problem")],
        ("shared", pa.int32()),
        ("share", pa.float64()),
    ]
)


def write(path, rows, n):
    """rows: list of dicts with SCHEMA's keys; n: words of an n-gram."""
    tables.write(path, rows, SCHEMA, {"n": n})


def read(path):
    """List of dicts with SCHEMA's keys."""
    return tables.read(path, SCHEMA, "data overlap").to_pylist()
