"""results/data/benchmarks/{benchmark}.parquet: the source's own columns, plus `id` and `gold` or `tests`.

id: unique within the benchmark; gold: answer (math) or letter (choice); tests: for code, what `grading.code` runs.
Every other column is a field that a prompt template may name, e.g. {problem}; choice benchmarks add `options`.
The Parquet metadata holds `format` and `kind` (math | choice | code).
"""

import pyarrow as pa

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import tables
from hybrid_lora.contracts.corpus import TESTS

KINDS = {"math-500": "math", "aime": "math", "mmlu-pro": "choice", "gpqa": "choice", "leetcode": "code"}
_COMMON = {
    "math": [("gold", pa.string())],
    "choice": [("options", pa.list_(pa.string())), ("gold", pa.string())],
    "code": [("tests", TESTS)],
}


def schema(kind):
    """The columns that every benchmark of this kind (math | choice | code) has, whatever its source's own are."""
    return pa.schema([("id", pa.string()), *_COMMON[kind]])


def write(path, rows, format):
    """rows: list of dicts with equal keys; format: a key of KINDS."""
    kind = KINDS[format]
    needed = schema(kind)
    table = pa.Table.from_pylist(rows)
    for field in needed:  # inference cannot know the type of an all-null or empty column
        column = pa.array([row[field.name] for row in rows], type=field.type)
        table = table.set_column(table.schema.get_field_index(field.name), field, column)
    tables.write(path, table, needed, {"format": format, "kind": kind})


def read(path):
    """(rows as list of dicts, kind)."""
    kind = tables.metadata(path).get("kind")
    if kind not in _COMMON:
        raise UserError(f"{path}: not a benchmark file of the data stage")
    return tables.read(path, schema(kind), "the data stage").to_pylist(), kind
