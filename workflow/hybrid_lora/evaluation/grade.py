"""completions.parquet + benchmark -> grades.parquet: one verdict per completion, in the completions' order."""

import collections
import sys

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.contracts import benchmarks, completions, grades
from hybrid_lora.grading import dispatch
from hybrid_lora.grading.verdict import summary

ENTRY = "hybrid_lora.evaluation.grade"
# A change of one kind's grader reruns the grades of no other.
CHOICES = {
    "kind": {
        "math": ["hybrid_lora.grading.pool"],
        "choice": ["hybrid_lora.grading.choice"],
        "code": ["hybrid_lora.grading.code", "hybrid_lora.grading.sandbox", "python"],
    }
}


def run(arguments):
    """Grade, write `arguments.out` and its manifest, and say on stderr what came out."""
    problems, kind = benchmarks.read(arguments.benchmark)
    rows = completions.read(arguments.completions)
    joined = join(rows, problems, arguments.completions, arguments.benchmark)
    progress = Progress(f"grade {arguments.benchmark.stem}", len(rows))
    verdicts = dispatch.grade_all(kind, joined, arguments.settings, arguments.workers, progress)
    grades.write(arguments.out, [record(row, verdict) for row, verdict in zip(rows, verdicts)], {"kind": kind})
    manifest.write_beside(
        arguments.out,
        stage="evaluation.grade",
        settings=arguments.settings,
        inputs={"completions": arguments.completions, "benchmark": arguments.benchmark},
        code=code.sources(ENTRY, arguments.settings),
    )
    print(f"grade {arguments.benchmark.stem}: {summary(verdicts)}", file=sys.stderr, flush=True)


def join(rows, problems, rows_path, problems_path):
    """The problem's fields and the completion of every row; UserError where the two files are not of one benchmark."""
    by_id = {problem["id"]: problem for problem in problems}
    if len(by_id) != len(problems):
        twice = collections.Counter(problem["id"] for problem in problems).most_common(1)[0][0]
        raise UserError(f"{problems_path}: column 'id' holds '{twice}' more than once")
    present = {row["id"] for row in rows}
    _complain(problems_path, present - by_id.keys(), rows_path)
    _complain(rows_path, by_id.keys() - present, problems_path)
    pairs = collections.Counter((row["id"], row["sample"]) for row in rows)
    (pair, count), *_ = pairs.most_common(1) or [(None, 1)]
    if count > 1:
        raise UserError(f"{rows_path}: id '{pair[0]}' has sample {pair[1]} {count} times")
    return [by_id[row["id"]] | {"completion": row["completion"]} for row in rows]


def _complain(path, missing, other):
    if missing:
        example = min(missing, key=str)
        raise UserError(f"{path}: no row with id '{example}', which {other} has ({len(missing)} such); not of one benchmark")


def record(row, verdict):
    """One row of grades.parquet."""
    extracted = None if verdict.extracted is None else verdict.extracted.encode("utf-8", "replace").decode()
    return {"id": row["id"], "sample": row["sample"], "correct": verdict.correct, "extracted": extracted, "error": verdict.error}
