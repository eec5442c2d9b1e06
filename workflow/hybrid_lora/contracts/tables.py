"""Parquet tables with a fixed schema: written atomically, checked when read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import atomic_path

ROWS = 50_000  # a row group: nested text beyond 2 GiB in one cannot be read back


def write(path, rows, schema, metadata=None):
    """Write `rows` (a pyarrow Table or a list of dicts) under `schema`; columns beyond the schema are kept.

    metadata: a JSON value kept in the file under the key `hybrid_lora`.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema)
    table = table.replace_schema_metadata({b"hybrid_lora": json.dumps(metadata or {}, sort_keys=True).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, row_group_size=ROWS)


def read(path, schema, made_by):
    """Read a Parquet file and check that it holds the schema's columns with the schema's types.

    made_by: the stage that writes it, for the message. Raises UserError (one line) on a missing, truncated or foreign file.
    """
    return read_with_metadata(path, schema, made_by)[0]


def read_with_metadata(path, schema, made_by, columns=None):
    """(`read`, `metadata`) of a file in one pass; columns: names of those to load, None = all."""
    table = _load(path, columns)
    for field in schema if columns is None else [schema.field(name) for name in columns]:
        if field.name not in table.column_names:
            raise UserError(
                f"{path}: column '{field.name}' is missing; not a file of {made_by} (has {', '.join(table.column_names)})"
            )
        if table.schema.field(field.name).type != field.type:
            found = table.schema.field(field.name).type
            raise UserError(f"{path}: column '{field.name}' has type {found}, {made_by} writes {field.type}")
    return table, json.loads((table.schema.metadata or {}).get(b"hybrid_lora", b"{}"))


def metadata(path):
    """The JSON value that `write` kept in the file, {} if none."""
    return json.loads((_load(path, []).schema.metadata or {}).get(b"hybrid_lora", b"{}"))


def _load(path, columns=None):
    try:
        with pq.ParquetFile(path) as file:
            return file.read([name for name in columns if name in file.schema_arrow.names] if columns is not None else None)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
