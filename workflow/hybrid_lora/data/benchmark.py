"""One benchmark as a parquet file: raw rows (hub, local file or generated), normalised, counted, written."""

import sys

import pyarrow as pa

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark_formats, sources
from hybrid_lora.data import settings as checks
from hybrid_lora.data.generated import benchmark_rows

KEYS = ("name", "format", "data", "problems")


def run(settings, out, source=None):
    """Write `out` (contracts.benchmarks) and its manifest.

    settings: {name, format, data, hub, generated, problems}; source: the local file, where settings.data is a path.
    """
    checks.check(settings, KEYS, benchmarks.KINDS)
    expected = checks.number(settings, "problems", least=1)
    raw = _raw(settings, expected, source)
    if len(raw.rows) != expected:
        raise UserError(f"{raw.place}: has {len(raw.rows)} problems, benchmarks.{settings['name']}.problems expects {expected}")
    order = settings.get("option_order", "shuffled")
    rows = benchmark_formats.normalise(raw.rows, settings["format"], raw.place, order)
    _one_type_a_column(rows, raw.place)
    benchmarks.write(out, rows, settings["format"])
    closure = code.sources("hybrid_lora.data.benchmark")
    manifest.write_beside(out, "data.benchmark", settings, raw.inputs, closure, problems=len(rows), **raw.facts)
    print(f"{settings['name']}: {len(rows)} problems from {raw.place}", file=sys.stderr)


def _raw(settings, problems, source):
    if settings["data"] != "generated":
        return sources.external(settings, source)
    if source is not None:
        raise UserError(f"{source}: --source is given, but settings.data is 'generated'")
    seed = checks.number(settings.get("generated") or {}, "seed", within="settings.generated")
    return sources.Raw(benchmark_rows.rows(settings["format"], problems, seed), "generated problems")


def _one_type_a_column(rows, place):
    """UserError where Arrow would find no common type for a column; its own message would quote the values."""
    names = dict.fromkeys(name for row in rows for name in row)
    for i, row in enumerate(rows, 1):
        if len(row) != len(names):
            absent = next(name for name in names if name not in row)
            raise UserError(f"{place}: row {i} has no column '{absent}', other rows have it")
    for name in names:
        try:
            pa.array([row[name] for row in rows])
        except (pa.ArrowException, OverflowError):
            raise UserError(f"{place}: column '{name}' holds values of different types") from None
