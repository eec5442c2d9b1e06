"""importance.parquet in results/probe/{model}/{probe}/{adalora,autolora}/: what a probe with its own training leaves per module.

value: what the criterion ranks by (adalora: rank left; autolora: |alpha|, or its rank count); importance: the
criterion's mean importance of the module, which breaks ties of value. One row per module, in layer and type order.
The metadata holds the model's identity and the criterion.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

NAME = "importance.parquet"
SCHEMA = pa.schema(
    [
        ("module", pa.string()),
        ("layer", pa.int32()),
        ("type", pa.string()),
        ("value", pa.float64()),
        ("importance", pa.float64()),
    ]
)


def write(path, rows, metadata):
    """rows: list of dicts with SCHEMA's keys; metadata: {model: identity of modules.json, criterion}."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """(list of dicts with SCHEMA's keys, metadata)."""
    table, about = tables.read_with_metadata(path, SCHEMA, "probe adalora or autolora")
    return table.to_pylist(), about
