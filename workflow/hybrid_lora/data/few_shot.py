"""Worked examples for few-shot prompts: rows of the benchmark's own format from a file or a hub data set of their own.

MMLU-Pro's convention is five examples of the question's category, with the reasoning that its validation split brings. The
rows travel in the benchmark file's metadata, so that completions need no second file. An example that is itself a problem
of the benchmark is refused.
"""

from dataclasses import dataclass, field

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark_formats, sources
from hybrid_lora.data import settings as checks


@dataclass
class Examples:
    """The rows and the files they were read from."""

    rows: list = field(default_factory=list)
    inputs: dict = field(default_factory=dict)


def examples(settings, problems, path=None):
    """Examples of the benchmark `settings`; none where settings.few_shot is absent or its count is 0.

    problems: the benchmark's rows; path: the local file, where settings.few_shot.data is a path.
    """
    wanted = settings.get("few_shot") or {"count": 0}
    count = checks.number(wanted, "count", within="settings.few_shot")
    if not count:
        return Examples()
    if "data" not in wanted or wanted["data"] == "generated":
        raise UserError("settings.few_shot: data is missing or 'generated', allowed: hub, or the path of a file")
    raw = sources.external(wanted, path)
    rows = [_worked(row) for row in benchmark_formats.normalise(raw.rows, settings["format"], raw.place)]
    _apart(rows, problems, settings["format"], raw.place)
    _enough(rows, problems, count, wanted.get("group"), raw.place)
    return Examples(rows, {"examples": raw.inputs["source"]} if raw.inputs else {})


def _worked(row):
    text = row.get("cot_content")  # MMLU-Pro writes "A: Let's think step by step. ..."
    return {**row, "cot_content": text.removeprefix("A:").strip()} if isinstance(text, str) else row


def _apart(rows, problems, format, place):
    asked = {benchmarks.question(row, format).strip() for row in problems}
    for row in rows:
        if benchmarks.question(row, format).strip() in asked:
            raise UserError(f"{place}: example '{row['id']}' is a problem of the benchmark; examples must be others")


def _enough(rows, problems, count, group, place):
    """UserError unless every problem finds `count` examples, in its own group where `group` names a column."""
    if group is None:
        if len(rows) < count:
            raise UserError(f"{place}: has {len(rows)} examples, settings.few_shot.count is {count}")
        return
    for row in (*rows[:1], *problems[:1]):
        if group not in row:
            raise UserError(f"{place}: settings.few_shot.group is '{group}', which is no column of benchmark and examples")
    for name in dict.fromkeys(row[group] for row in problems):
        found = sum(row[group] == name for row in rows)
        if found < count:
            raise UserError(f"{place}: has {found} examples with {group} '{str(name)[:40]}', settings.few_shot.count is {count}")
