"""results/data/{corpus}/{train,val}.parquet: conversations to train on.

id: unique, stable; source: math | science | code; messages: the conversation, the last one the assistant's worked
solution; gold: final answer, null where there is none to verify against; num_tokens: as the source counts them, null
where it does not; tests: for code, what `grading.code` runs, null otherwise.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TESTS = pa.struct([("prompt", pa.string()), ("test", pa.string()), ("entry_point", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("messages", MESSAGES),
        ("gold", pa.string()),
        ("num_tokens", pa.int64()),
        ("tests", TESTS),
    ]
)


def write(path, rows, metadata=None):
    """rows: list of dicts with SCHEMA's keys."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """List of dicts with SCHEMA's keys."""
    return tables.read(path, SCHEMA, "the data stage").to_pylist()
