"""results/data/{corpus}/{train,val}.parquet: conversations to train on.

id: unique, stable; source: math | science | code; messages: the conversation, the last one the assistant's worked
solution; gold: final answer, null where there is none to verify against; num_tokens: as the source counts them, null
where it does not; tests: for code, what `grading.code` runs, null otherwise.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_lora.common.errors import UserError
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


def iterate(path, columns):
    """Yield dicts with `columns` of SCHEMA row by row; a corpus of gigabytes never lies in memory as a whole."""
    for batch in _batches(path, columns):
        yield from batch.to_pylist()


def count(path):
    """Number of rows."""
    tables.metadata(path)
    with pq.ParquetFile(path) as file:
        return file.metadata.num_rows


def without_solutions(path):
    """List of rows as `read` gives them, their last message empty: nearly all of a corpus' text is in these."""
    rows = []
    for row in iterate(path, SCHEMA.names):
        row["messages"][-1]["content"] = ""
        rows.append(row)
    return rows


def pick(path, columns, numbers):
    """{number: dict with `columns`} of the rows with these numbers from 0, read as `iterate` does."""
    return dict(picked(path, columns, numbers))


def picked(path, columns, numbers):
    """The items of `pick` one by one, in the order of numbers."""
    start, wanted = 0, np.array(sorted(numbers), dtype=np.int64)
    for batch in _batches(path, columns):
        here = wanted[(wanted >= start) & (wanted < start + len(batch))]
        if len(here):
            yield from zip(here.tolist(), batch.take(pa.array(here - start)).to_pylist(), strict=True)
        start += len(batch)


def _batches(path, columns):
    tables.metadata(path)  # one clear line where the file is missing or cut off
    with pq.ParquetFile(path) as file:
        for name in columns:
            if name not in file.schema_arrow.names or file.schema_arrow.field(name).type != SCHEMA.field(name).type:
                raise UserError(f"{path}: column '{name}' is missing or of another type; not a file of the data stage")
        yield from file.iter_batches(batch_size=1000, columns=list(columns))
