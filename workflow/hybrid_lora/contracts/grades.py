"""results/evaluation/{run}/{benchmark}/grades.parquet: one verdict per completion.

correct: true, false, or null where the grader itself failed; extracted: the answer found, null if none; error: kind of
error, null if none (e.g. no-answer, timeout, exception: the model's; grader: ours).
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [("id", pa.string()), ("sample", pa.int32()), ("correct", pa.bool_()), ("extracted", pa.string()), ("error", pa.string())]
)


def write(path, rows, metadata=None):
    """rows: list of dicts with SCHEMA's keys."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """List of dicts with SCHEMA's keys."""
    return tables.read(path, SCHEMA, "evaluation grade").to_pylist()
