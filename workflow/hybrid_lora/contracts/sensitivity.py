"""results/probe/{model}/{probe}/sensitivity/chunk-{chunk}.parquet: per-batch sensitivities, before any aggregation.

One row per validation batch, module and LoRA component: e and grad (Eq. 11) are unrounded float32. active_pass = A
means active in the pass that yields L_A (the module is in U_B, which that pass leaves enabled). loss_a and loss_b are
the two masked validation losses in nats per token over `tokens` target tokens.
The metadata names the model, the warm-up state (SHA-256) and the settings they were computed with.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        ("batch", pa.int32()),
        ("module", pa.string()),
        ("layer", pa.int32()),
        ("type", pa.string()),
        ("component", pa.int32()),
        ("active_pass", pa.string()),
        ("e", pa.float32()),
        ("grad", pa.float32()),
        ("loss_a", pa.float64()),
        ("loss_b", pa.float64()),
        ("tokens", pa.int64()),
    ]
)


def write(path, table, metadata):
    """table: pyarrow Table with SCHEMA's columns."""
    tables.write(path, table.cast(SCHEMA), SCHEMA, metadata)


def read(path):
    """(pyarrow Table, metadata)."""
    return tables.read(path, SCHEMA, "probe sensitivity"), tables.metadata(path)
