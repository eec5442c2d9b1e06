"""One benchmark as a parquet file: raw rows (hub, local file or generated), normalised, counted, written.

A published version is told by its columns and size, or named by the settings, and then checked. Fewer problems than it has
are a subset that the settings declare by their number.
"""

import sys

import pyarrow as pa

from hybrid_lora.common import code, manifest, seeds
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark_formats, benchmark_version, few_shot, sources
from hybrid_lora.data import settings as checks
from hybrid_lora.data.generated import benchmark_rows

KEYS = ("name", "format", "data", "problems")


def run(settings, out, source=None, examples=None):
    """Write `out` (contracts.benchmarks) and its manifest.

    settings: {name, format, data, hub, generated, problems} and optionally {version, subset, option_order, few_shot:
    {count, group, data, hub}}; source, examples: the local files, where settings.data and settings.few_shot.data are paths.
    """
    checks.check(settings, KEYS, benchmarks.KINDS)
    format, name = settings["format"], settings["name"]
    expected = checks.number(settings, "problems", least=1)
    subset = checks.number(settings, "subset", least=1, none=True)
    benchmark_version.check(settings.get("version"), format, expected, name)
    raw = _raw(settings, expected, source)
    if len(raw.rows) != expected:
        known = benchmark_version.sizes(format)
        what = f"has {len(raw.rows)} problems, benchmarks.{name}.problems expects {expected}"
        raise UserError(f"{raw.place}: {what} (published in format {format}: {known}; of a part, give its own number there)")
    rows = benchmark_formats.normalise(raw.rows, format, raw.place, settings.get("option_order", "shuffled"))
    version = benchmark_version.of(rows, format, settings.get("version"), raw.place) if settings["data"] != "generated" else None
    _one_type_a_column(rows, raw.place)
    facts = {
        "version": version,
        "problems_read": len(rows),
        "mended": benchmark_formats.mended(raw.rows, rows),
        "repeated": benchmark_formats.repeated(rows, format),
        "without_gold": benchmark_formats.without_gold(rows),
    }
    shots = few_shot.examples(settings, rows, examples)
    rows = _drawn(rows, subset, raw.place)
    benchmarks.write(out, rows, format, shots.rows)
    closure = code.sources("hybrid_lora.data.benchmark")
    inputs = {**raw.inputs, **shots.inputs}
    manifest.write_beside(out, "data.benchmark", settings, inputs, closure, problems=len(rows), **facts, **raw.facts)
    print(f"{name}: {_summary(rows, facts, shots)} from {raw.place}", file=sys.stderr)


def _summary(rows, facts, shots):
    number = f"{len(rows)} problems" + (f" of {facts['problems_read']}" if len(rows) != facts["problems_read"] else "")
    said = [number + (f" (version {facts['version']})" if facts["version"] else "")]
    said += [f"LaTeX mended in {len(facts['mended'])}"] if facts["mended"] else []
    said += [f"{len(facts['repeated'])} ask what another asks"] if facts["repeated"] else []
    said += [f"{len(facts['without_gold'])} have no answer and cannot be judged"] if facts["without_gold"] else []
    said += [f"{len(shots.rows)} examples"] if shots.rows else []
    return ", ".join(said)


def _drawn(rows, subset, place):
    """`subset` of the rows, in their order: those whose ids hash lowest, so that a larger subset holds a smaller one."""
    if subset is None:
        return rows
    if subset > len(rows):
        raise UserError(f"{place}: has {len(rows)} problems, settings.subset is {subset}, allowed: at most that many, or null")
    chosen = {row["id"] for row in sorted(rows, key=lambda row: seeds.derive(0, "subset", row["id"]))[:subset]}
    return [row for row in rows if row["id"] in chosen]


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
