"""results/scores/{model}/{probe}/{criterion}.parquet: one row per module, in layer and type order.

rank 1 goes to full fine-tuning first, whatever the criterion's direction; allocation reads rank alone. mu and sigma
are null where a criterion has none; batches is the number of batches behind the score (0 if none). importance, null
where a criterion has none, broke ties of the score; readers do not need it.
The metadata holds criterion, direction (ascending: lowest score first), model, probe and batches.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        ("module", pa.string()),
        ("layer", pa.int32()),
        ("type", pa.string()),
        ("params", pa.int64()),
        ("mu", pa.float64()),
        ("sigma", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int32()),
        ("batches", pa.int32()),
    ]
)
WRITTEN = SCHEMA.append(pa.field("importance", pa.float64()))


def write(path, rows, metadata):
    """rows: list of dicts with SCHEMA's keys and, if there is one, importance."""
    tables.write(path, rows, WRITTEN, metadata)


def read(path):
    """(list of dicts with SCHEMA's keys, metadata)."""
    return tables.read(path, SCHEMA, "the scores stage").to_pylist(), tables.metadata(path)
