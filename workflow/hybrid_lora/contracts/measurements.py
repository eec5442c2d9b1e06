"""Per-batch measurements of one number a module: Eq. 9's perturbation, LoRA-drop's output energy, hybrid-4's |w * grad w|.

results/probe/{model}/{probe}/perturbation/chunk-{chunk}.parquet     value = loss without the module's branch - loss
results/probe/{model}/{probe}/outputs.parquet                        value = sum over tokens of ||branch output||^2
results/probe/{model}/{probe}/full-sensitivity/chunk-{chunk}.parquet value = mean over the module's weights of |w * grad w|
One row per batch and module; loss is the batch's own, nothing removed, in nats per token over `tokens` target tokens.
The metadata names the kind, the model, the warm-up (SHA-256 of its weights) and the settings.
"""

import pyarrow as pa

from hybrid_lora.contracts import tables

SCHEMA = pa.schema(
    [
        ("batch", pa.int32()),
        ("module", pa.string()),
        ("layer", pa.int32()),
        ("type", pa.string()),
        ("value", pa.float64()),
        ("loss", pa.float64()),
        ("tokens", pa.int64()),
    ]
)


def write(path, rows, metadata):
    """rows: list of dicts with SCHEMA's keys; metadata: {kind, model, warmup_sha256, settings, ...}."""
    tables.write(path, rows, SCHEMA, metadata)


def read(path):
    """(pyarrow Table, metadata)."""
    return tables.read_with_metadata(path, SCHEMA, "probe perturbation, outputs or full-sensitivity")


def table(batch, candidates, values, loss, tokens):
    """Arrow table of one batch; candidates: with module, layer and type, in the order of values."""
    rows = [
        {"batch": batch, "module": c.module, "layer": c.layer, "type": c.type, "value": value, "loss": loss, "tokens": tokens}
        for c, value in zip(candidates, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
