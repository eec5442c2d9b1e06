"""Benchmark: grading LeetCodeDataset's own solutions in the sandbox against running them as bare subprocesses.

    python tests/benchmarks/grading_programs.py --data v0.3.1-test.jsonl.gz [--every 8] [--rounds 3] [--workers 2] [--json FILE]

Bare: the data set's program (prompt, completion, test, call of check) through `python -`, no limits of any kind, as many at
a time, by the same interpreter with the same options; `venv`: by the environment's, as a person would run it. Ours:
`grading.code.grade_many`, values returned, decoded and compared outside. In turns, medians of the wall time over the sample;
the ratio to bare is to be at most 1.3.
"""

import argparse
import functools
import gzip
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))

from hybrid_lora.grading import code, sandbox


def bare(interpreter, row):
    """Exit status of the program and its tests in one plain interpreter."""
    environment = sandbox.ENVIRONMENT | {"PYTHONPATH": sandbox.library_path("limits") or ""}
    text = f"{row['prompt']}\n{row['completion']}\n{row['test']}\ncheck({row['entry_point']})\n"
    command = [*interpreter, "-"]
    return subprocess.run(command, input=text.encode(), stdout=subprocess.DEVNULL, timeout=600, env=environment).returncode


def run_bare(interpreter, rows, workers):
    """(wall seconds, number that passed)"""
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        passed = sum(status == 0 for status in pool.map(functools.partial(bare, interpreter), rows))
    return time.monotonic() - began, passed


def run_sandbox(rows, workers, mode):
    """(wall seconds, number that passed)"""
    began = time.monotonic()
    verdicts = code.grade_many([code.job(row["completion"], row) for row in rows], mode, 60, 1024, workers)
    return time.monotonic() - began, sum(verdict.correct is True for verdict in verdicts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="rows of LeetCodeDataset, .jsonl.gz")
    parser.add_argument("--every", type=int, default=8, metavar="N", help="take every N-th program (1: all)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    with gzip.open(arguments.data, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:: arguments.every]
    modes = [mode for mode in ("bubblewrap", "limits") if mode == "limits" or sandbox.choose("auto") == mode]
    seconds = {name: [] for name in ["bare", "venv", *modes]}
    for _ in range(arguments.rounds):
        wall, passed = {}, {}
        for name, interpreter in (("bare", sandbox.PYTHON), ("venv", [sys.executable])):
            wall[name], passed[name] = run_bare(interpreter, rows, arguments.workers)
        for mode in modes:
            wall[mode], passed[mode] = run_sandbox(rows, arguments.workers, mode)
        for name, value in wall.items():
            seconds[name].append(value)
        if set(passed.values()) != {len(rows)}:
            raise SystemExit(f"not all of {len(rows)} programs passed: {passed}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"programs": len(rows), "workers": arguments.workers, "seconds": medians}
    result["ratio"] = {mode: medians[mode] / medians["bare"] for mode in modes}
    print(json.dumps(result, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
