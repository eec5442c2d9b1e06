"""Rows of any kind to verdicts: the one entry for evaluation's `grade` command and for training's rewards."""

import threading
from collections import OrderedDict

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts.benchmark_names import GRADING
from hybrid_lora.grading import choice, code, pool, sandbox
from hybrid_lora.grading.verdict import Verdict, failed, guarded

KINDS = tuple(GRADING)
_CACHED = 20_000
_cache, _lock = OrderedDict(), threading.Lock()


def grade_all(kind, rows, settings, workers=1, progress=None):
    """Verdicts in the order of `rows`.

    rows: dicts with `completion` and, for math, `gold` and perhaps `options`, `match_types` (see `math.grade`); for choice,
    `gold` (letter) and `options`; for code, `tests` {prompt, test, entry_point}. settings: the configuration's `grading`, of
    which GRADING says what a kind needs. workers: processes.
    UserError on settings that cannot be used; never an exception for what a row holds.
    """
    check(kind, settings)
    if kind == "math":
        answers = [(row["completion"], row["gold"], row.get("options"), row.get("match_types")) for row in rows]
        return pool.grade_many(answers, settings["math_timeout_s"], workers, progress)
    if kind == "choice":
        return [_counted(progress, guarded(None, choice.grade, row["completion"], row["gold"], row["options"])) for row in rows]
    return _programs(rows, settings, workers, progress, code.grade_many)


def grade_batch(kind, rows, settings, workers=1):
    """`grade_all` for a reward, called every step: verdicts on programs are remembered in this process."""
    if kind != "code":
        return grade_all(kind, rows, settings, workers)
    check(kind, settings)
    return _programs(rows, settings, workers, None, _remembering)


def check(kind, settings):
    """UserError unless `settings` hold what grading this kind needs."""
    if kind not in GRADING:
        raise UserError(f"kind of benchmark: {kind!r} is not one of {', '.join(KINDS)}")
    for key in GRADING[kind]:
        if key not in settings:
            raise UserError(f"grading: key '{key}' is missing (needed: {', '.join(GRADING[kind])})")
        value = settings[key]
        if key != "sandbox" and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise UserError(f"grading.{key}: {value!r} is not a number above 0")


def ready(kinds, settings):
    """UserError unless everything that grading these kinds needs is there, the sandbox of programs among it."""
    for kind in sorted(kinds):
        check(kind, settings)
    if "code" in kinds:
        sandbox.choose(settings["sandbox"])


def _counted(progress, verdict):
    if progress:
        progress.step()
    return verdict


def _programs(rows, settings, workers, progress, grade):
    """`grade` applied to the rows that have tests; a row without is the grader's failure."""
    mode = sandbox.choose(settings["sandbox"])
    jobs = [_job(row) for row in rows]
    limits = (settings["program_timeout_s"], int(settings["program_memory_mb"]))
    verdicts = iter(grade([job for job in jobs if not isinstance(job, Verdict)], mode, *limits, workers, progress))
    return [_counted(progress, job) if isinstance(job, Verdict) else next(verdicts) for job in jobs]


def _job(row):
    """The program of a row with its tests, or the verdict that there is none to run."""
    problem = code.missing(row["tests"])
    return failed(problem) if problem else guarded(None, code.job, row["completion"], row["tests"])


def _remembering(jobs, mode, timeout_s, memory_mb, workers, progress):
    """`code.grade_many` with a least-recently-used cache; the grader's own failures are tried again."""
    keys = [(job, mode, timeout_s, memory_mb) for job in jobs]
    with _lock:
        known = {key: _cache[key] for key in keys if key in _cache}
    new = list(dict.fromkeys(key for key in keys if key not in known))
    known |= dict(zip(new, code.grade_many([key[0] for key in new], mode, timeout_s, memory_mb, workers, progress)))
    with _lock:
        for key in keys:
            if known[key].correct is not None:
                _cache[key] = known[key]
                _cache.move_to_end(key)
        while len(_cache) > _CACHED:
            _cache.popitem(last=False)
    return [known[key] for key in keys]
