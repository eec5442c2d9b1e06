"""results/training/{run}/history.parquet: one row per logged optimizer step; columns differ by objective.

Every file has `step` (int64, 1-based) and `elapsed_s`; the others are the trainer's own log keys (loss, reward, kl,
grad_norm, learning rates, validation_loss, ...), null where a step did not log them.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema([("step", pa.int64()), ("elapsed_s", pa.float64())])


def write(path, records, metadata=None):
    """records: list of dicts with `step`, `elapsed_s` and any numeric values."""
    names = sorted({k for r in records for k in r} - {"step", "elapsed_s"})
    columns = {"step": pa.array([r["step"] for r in records], pa.int64())}
    columns["elapsed_s"] = pa.array([r["elapsed_s"] for r in records], pa.float64())
    for name in names:
        columns[name] = pa.array([None if r.get(name) is None else float(r[name]) for r in records], pa.float64())
    tables.write(path, pa.table(columns), SCHEMA, metadata)


def read(path):
    """pyarrow Table."""
    return tables.read(path, SCHEMA, "the training stage")
