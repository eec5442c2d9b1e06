"""Programs: the model's last fenced block, run on the problem's tests in a sandbox, as LeetCodeDataset does it.

The program is tests.prompt, the extracted code, and the calls in tests.test of tests.entry_point. `grading.runner`
evaluates the calls; whether the asserts hold is decided here (`grading.asserts`). Departures: a program's
`if __name__ == "__main__"` part is not run, and sets have a fixed order (PYTHONHASHSEED=1), so verdicts repeat. As in the
data set, its prompt's star imports shadow built-ins: `pow(a, b, m)` fails, as math.pow takes two arguments.

Error kinds of the model: no-answer, exception, exit, memory, timeout, output, threads, files (too much of each), wrong-answer.
"""

import functools
import json
import marshal
import os
import re
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hybrid_lora.grading import asserts, runner, sandbox, values
from hybrid_lora.grading.parsing import parse
from hybrid_lora.grading.verdict import Verdict, failed, guarded

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
TAIL = 200_000  # characters at the end of a completion that are searched for code
STARTUP_S = 30  # of the interpreter on a busy machine, before any of the program
STARTED = b'"started"\n'
ATTEMPTS = 3  # to start a sandbox, which a busy machine refuses now and then; nothing of the program has run by then
LANGUAGES = ("", "python", "python3", "py")
KINDS = ("exception", "exit", "memory")


@dataclass(frozen=True)
class Job:
    """One program and its tests; equal jobs have equal verdicts."""

    code: str | None
    prompt: str
    test: str
    entry_point: str


def job(completion, tests):
    """The Job of a completion; tests: {prompt, test, entry_point}, all texts (see `missing`)."""
    return Job(extract(completion, tests["entry_point"]), tests["prompt"], tests["test"], tests["entry_point"])


def missing(tests):
    """Why these tests cannot be used, in one line; None if they can."""
    if not isinstance(tests, dict) or not tests:
        return "the problem has no tests"
    absent = [key for key in ("prompt", "test", "entry_point") if not isinstance(tests.get(key), str)]
    return f"tests without {', '.join(absent)}" if absent else None


def extract(completion, entry_point):
    """The last ``` block that defines the entry point, else the last block, else the whole text; None if that is empty.

    A block that is never closed (a cut-off completion) reaches to the end.
    """
    if not isinstance(completion, str):
        return None
    text, blocks = completion[-TAIL:], fenced(completion)
    names = re.findall(r"\w+", entry_point)
    defining = [block for block in blocks if all(re.search(rf"\b(?:class|def)\s+{name}\b", block) for name in names)]
    code = (defining or blocks or [text])[-1]
    return code if code.strip() else None


def fenced(completion):
    """The contents of a completion's ``` blocks that may be Python."""
    found = _FENCE.findall(completion[-TAIL:])
    return [textwrap.dedent(body) for language, body in found if language.lower() in LANGUAGES]


def grade_many(jobs, mode, timeout_s, memory_mb, workers=1, progress=None):
    """Verdicts in the order of `jobs`; equal ones run once. mode: from `sandbox.choose`; timeout_s: wall time a program."""
    distinct = list(dict.fromkeys(jobs))
    lock = threading.Lock()

    def one(item):
        verdict = guarded(item.code, grade_one, item, mode, timeout_s, memory_mb)
        if progress:
            with lock:
                progress.step(counts[item])
        return verdict

    counts = dict.fromkeys(distinct, 0)
    for item in jobs:
        counts[item] += 1
    with ThreadPoolExecutor(max(1, workers)) as pool:
        verdicts = dict(zip(distinct, pool.map(one, distinct)))
    return [verdicts[item] for item in jobs]


def grade_one(item, mode, timeout_s, memory_mb):
    """The verdict on one Job; never raises for what a program does."""
    if item.code is None:
        return Verdict(False, None, "no-answer")
    try:
        parse(item.entry_point, mode="eval")
    except (SyntaxError, ValueError):
        return failed("entry_point is no expression", item.code)
    try:
        plan = asserts.plan(item.test)
    except asserts.Unsupported as error:
        return failed(f"test {error}", item.code)
    task = {"prompt": item.prompt, "code": _utf8(item.code), "entry_point": item.entry_point, "calls": list(plan.calls)}
    task |= {"limits": sandbox.limits(timeout_s, memory_mb), "filter": sandbox.own_filter(mode)}
    task |= {"files": sandbox.own_files(mode), "libraries": sandbox.library_path(mode), "parent": os.getpid()}
    for _ in range(ATTEMPTS):
        try:
            result = sandbox.run(["-c", _runner()], marshal.dumps(task), mode, timeout_s, startup_s=STARTUP_S)
        except (OSError, ValueError) as error:
            problem = f"sandbox: {type(error).__name__}: {str(error)[:200]}"
            continue
        if result.output.startswith(STARTED):
            return _verdict(item.code, plan, result)
        reason = "timeout" if result.timed_out else (result.errors.strip().splitlines() or [f"status {result.status}"])[-1][:200]
        problem = f"sandbox did not start: {reason}"
    return failed(problem, item.code)


def _verdict(code, plan, result):
    if result.overflow:
        return Verdict(False, code, result.overflow)
    try:
        said = [json.loads(line) for line in result.output.split(b"\n")[1:-1]]
        ended = result.status == 0  # neither killed by us nor by itself, whatever it has written
        done = ended and len(said) == len(plan.calls) + 2 and said[0] == "loaded" and said[-1] == "done"
        error = said[-1] if said and not done and isinstance(said[-1], dict) and "error" in said[-1] else None
        decoded = [values.decode(value) for value in said[1:-1]] if done else []
    except values.UNFIT:
        return Verdict(False, code, "output")
    if done:
        failure = asserts.first_failure(plan.checks, decoded)
        detail = None if failure is None else f"wrong-answer: test {failure} of {len(plan.checks)}"
        return Verdict(failure is None, code, detail)
    return Verdict(False, code, _ended_early(result, error, _where(plan, len(said) - (error is not None))))


def _where(plan, lines):
    """Which test was running when the program ended, as far as its lines say; None if that was before the first."""
    return f"test {plan.numbers[min(lines, len(plan.calls)) - 1]} of {len(plan.checks)}" if lines else None


def _ended_early(result, error, where):
    """`timeout: test 3 of 103`, `exception: KeyError, test 3 of 103`."""
    if result.timed_out:
        kind = "timeout"
    elif error is None or error["error"] not in KINDS:
        kind = "timeout" if result.status in (-24, 128 + 24) else "exit"  # SIGXCPU, as bubblewrap reports it too
    else:
        kind = error["error"]
    name = error.get("type") if kind == "exception" else None  # written by the model's process: any value
    shown = name if isinstance(name, str) and name.isidentifier() and len(name) < 60 else None
    details = ", ".join(filter(None, [shown, where]))
    return f"{kind}: {details}" if details else kind


def _utf8(text):
    return text.encode("utf-8", "replace").decode()


@functools.cache
def _runner():
    return Path(runner.__file__).read_text(encoding="utf-8")
