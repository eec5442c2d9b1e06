"""results/evaluation/{run}/{benchmark}/completions.parquet: what the model wrote, one row per problem and sample.

tokens: generated tokens, the end-of-sequence token included; finish_reason: stop | length (cut off); prompt_sha256: of
the rendered prompt; seed: of the sample's random draw.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sample", pa.int32()),
        ("prompt_sha256", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)


def write(path, rows, metadata=None):
    """rows: list of dicts with SCHEMA's keys."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """List of dicts with SCHEMA's keys."""
    return tables.read(path, SCHEMA, "evaluation complete").to_pylist()
