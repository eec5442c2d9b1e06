"""results/data/benchmarks/{benchmark}.parquet: the source's own columns, plus `id` and `gold` or `tests`.

id: unique within the benchmark; gold: answer (math) or letter (choice); tests: for code, what `grading.code` runs.
Every other column is a field that a prompt template may name, e.g. {problem}; choice benchmarks add `options`.
The Parquet metadata holds `format`, `kind` (math | choice | code) and, for few-shot prompts, `examples`: rows like the
benchmark's own, of which none is a problem of it.
"""

import json

import pyarrow as pa

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import tables
from hybrid_lora.contracts.benchmark_names import KINDS
from hybrid_lora.contracts.corpus import TESTS

_QUESTION = {"math-500": "problem", "aime": "problem", "mmlu-pro": "question", "gpqa": "Question"}
_COMMON = {
    "math": [("gold", pa.string())],
    "choice": [("options", pa.list_(pa.string())), ("gold", pa.string())],
    "code": [("tests", TESTS)],
}


def schema(kind):
    """The columns that every benchmark of this kind (math | choice | code) has, whatever its source's own are."""
    return pa.schema([("id", pa.string()), *_COMMON[kind]])


def question(row, format):
    """The problem's own text in a benchmark's row, without options, code to be completed and instructions to the model."""
    if format != "leetcode":
        return row[_QUESTION[format]]
    text = row.get("problem_description") or row["query"]
    return text.split("Please complete the following python code")[0].split("**Example 1:**")[0].split("Example 1:")[0].strip()


def write(path, rows, format, examples=()):
    """rows: list of dicts with equal keys; format: a key of KINDS; examples: rows for few-shot prompts, JSON values."""
    kind = KINDS[format]
    needed = schema(kind)
    table = pa.Table.from_pylist(rows)
    for field in needed:  # inference cannot know the type of an all-null or empty column
        column = pa.array([row[field.name] for row in rows], type=field.type)
        table = table.set_column(table.schema.get_field_index(field.name), field, column)
    about = {"format": format, "kind": kind}
    if examples:
        about["examples"] = json.loads(json.dumps(list(examples), default=str))
    tables.write(path, table, needed, about)


def read(path):
    """(rows as list of dicts, kind)."""
    kind = tables.metadata(path).get("kind")
    if kind not in _COMMON:
        raise UserError(f"{path}: not a benchmark file of the data stage")
    return tables.read(path, schema(kind), "the data stage").to_pylist(), kind


def about(path):
    """{format, kind, examples} of a benchmark file; examples is a list of rows, empty where there are none."""
    found = tables.metadata(path)
    if found.get("kind") not in _COMMON or found.get("format") not in KINDS:
        raise UserError(f"{path}: not a benchmark file of the data stage")
    return {"examples": [], **found}
