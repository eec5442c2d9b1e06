"""results/training/{run}/samples.parquet: completions kept while training by RL, for reading; no rows for sft.

step: optimizer step at which they were kept; prompt: the user's last message; reward: weighted sum, null where the grader
failed; advantage: as the update used it.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
    ]
)


def write(path, rows, metadata=None):
    """rows: list of dicts with SCHEMA's keys."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """List of dicts with SCHEMA's keys."""
    return tables.read(path, SCHEMA, "the training stage").to_pylist()
