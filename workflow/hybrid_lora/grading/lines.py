"""JSON lines of completions to JSON lines of verdicts: the graders by themselves.

A file that is no JSON lines (missing, cut in half, of another kind) is one line of error before anything is graded. A row
that cannot be judged (no gold, tests that are no tests) is a row of the output like any other, with `correct` null and an
error of the kind `grader`. Bytes that are no UTF-8 become U+FFFD: they are what a model wrote, and are judged as such.
"""

import codecs
import contextlib
import gzip
import json
import math
import sys
import zlib

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import atomic_path
from hybrid_lora.common.progress import Progress
from hybrid_lora.grading import dispatch
from hybrid_lora.grading.verdict import failed, summary

KEYS = {
    "math": ("id", "completion", "gold"),
    "choice": ("id", "completion", "gold", "options"),
    "code": ("id", "completion", "tests"),
}
# A math row's `options`, by math-verify's names and that of its own cases: the name that math_verify.verify gives it.
OPTIONS = {name: name for name in ("float_rounding", "numeric_precision", "strict", "allow_set_relation_comp")}
OPTIONS |= {"precision": "float_rounding"}
MATCH_TYPES = ("latex", "expr")


def run(arguments):
    """Grade the rows of `arguments.in` as `arguments.kind`, write `arguments.out`, say on stderr what came out."""
    path = vars(arguments)["in"]
    rows = read(path, KEYS[arguments.kind])
    with contextlib.ExitStack() as stack:
        try:  # before the work, not after it
            out = stack.enter_context(atomic_path(arguments.out))
        except OSError as error:
            raise UserError(f"{arguments.out}: cannot be written ({error.strerror})") from None
        progress = Progress(f"grade {path.name}", len(rows))
        verdicts = grade(arguments.kind, rows, settings(arguments), arguments.workers, progress)
        write(out, rows, verdicts)
    print(f"grade {path.name}: {summary(verdicts)}", file=sys.stderr, flush=True)


def settings(arguments):
    """The settings of `dispatch` from the options; a kind's grader uses its own alone."""
    given = vars(arguments)
    return {
        "sandbox": given.get("sandbox", "bubblewrap"),
        "program_timeout_s": given.get("timeout", 60),
        "program_memory_mb": given.get("memory", 1024),
        "math_timeout_s": given.get("timeout", 5),
    }


def read(path, keys):
    """The rows of a .jsonl or .jsonl.gz file as dicts; UserError that names file and line, or a key that no row has."""
    rows = []
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    rows.append(_row(path, number, line))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    absent = [key for key in keys if rows and not any(key in row for row in rows)]
    if absent:
        raise UserError(f"{path}: no row has the key '{absent[0]}' (needed: {', '.join(keys)})")
    return rows


def _row(path, number, line):
    """What is no JSON object is no row of a model: the file is broken or another one."""
    try:
        row = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)  # without the line's text
        raise UserError(f"{path}: line {number} is not JSON ({reason}); is the file complete?") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: line {number} is a JSON {type(row).__name__}, expected an object")
    return row


def grade(kind, rows, settings, workers, progress=None):
    """One verdict a row, in order: of the grader where the row can be judged, else its failure."""
    problems = [_problem(kind, row) for row in rows]
    whole = [_whole(kind, row) for row, problem in zip(rows, problems) if not problem]
    if progress and len(whole) < len(rows):
        progress.step(len(rows) - len(whole))
    judged = iter(dispatch.grade_all(kind, whole, settings, workers, progress))
    return [failed(problem) if problem else next(judged) for problem in problems]


def _problem(kind, row):
    """Why a row cannot be judged, None if it can; golds and tests themselves are the graders' matter."""
    absent = [key for key in KEYS[kind] if key not in row]
    if absent:
        return f"no key '{absent[0]}'"
    if not isinstance(row["completion"], str | None):
        return f"completion is no text but {type(row['completion']).__name__}"
    if kind == "choice" and not (isinstance(row["options"], list) and row["options"]):
        return "options are no list"
    return _ways(row) if kind == "math" else None


def _ways(row):
    """What is wrong with a row's own `options` and `match_types` of math-verify, which are seldom there."""
    options, types = row.get("options"), row.get("match_types")
    known = isinstance(options, dict) and options.keys() <= OPTIONS.keys()
    if options is not None and not (known and all(isinstance(value, int) for value in options.values())):
        return f"options allowed are {', '.join(OPTIONS)}, with numbers or true and false"
    if types is not None and not (isinstance(types, list) and all(name in MATCH_TYPES for name in types)):
        return f"match_types allowed are {', '.join(MATCH_TYPES)}"
    return None


def _whole(kind, row):
    """The row with a number for a gold as text: `25` and `"25"` are one answer; its options by their names in math-verify."""
    if kind != "math":
        return row
    if isinstance(row["gold"], int | float) and not isinstance(row["gold"], bool):
        row = row | {"gold": str(row["gold"]) if math.isfinite(row["gold"]) else None}  # NaN is a missing value's stand-in
    return row | {"options": {OPTIONS[name]: value for name, value in (row.get("options") or {}).items()}}


def write(path, rows, verdicts):
    """{id, correct, extracted, error} a line."""
    with open(path, "w", encoding="utf-8") as file:
        for row, verdict in zip(rows, verdicts):
            record = {"id": row.get("id"), "correct": verdict.correct, "extracted": verdict.extracted, "error": verdict.error}
            file.write(json.dumps(record) + "\n")
