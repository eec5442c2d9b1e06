r"""Benchmark: grading MATH answers from the command line against calling math-verify in a bare loop, same processes.

    python tests/benchmarks/grading_math.py --data train_with_answer.jsonl.gz [--rows 5000] [--rounds 3] [--workers 2]

Completions are a problem's text and its answer, every third one another problem's, in \boxed{}. Bare: a multiprocessing
pool of as many processes that calls `verify(parse(gold), parse(completion))`, reading and writing the same JSON lines.
Ours: `python -m hybrid_lora.grading math`. In turns, each in a fresh interpreter (imports are part of both), medians of the
wall time; the ratio is to be at most 1.3. How many verdicts differ is printed too.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[2] / "workflow")
BARE = r"""
import json, logging, multiprocessing, sys
from math_verify import parse, verify
logging.disable(logging.CRITICAL)
def one(line):
    row = json.loads(line)
    correct = verify(parse("\\boxed{" + row["gold"] + "}"), parse(row["completion"]))
    return json.dumps({"id": row["id"], "correct": correct})
if __name__ == "__main__":
    with open(sys.argv[1]) as file, multiprocessing.Pool(int(sys.argv[3])) as pool, open(sys.argv[2], "w") as out:
        for line in pool.imap(one, file, chunksize=50):
            print(line, file=out)
"""


def rows(path, count):
    """`count` rows for the command."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = [row for row in map(json.loads, file) if isinstance(row["answer"], str)][:count]
    made = []
    for i, row in enumerate(found):
        answer = found[(i + 7) % len(found)]["answer"] if i % 3 == 0 else row["answer"]
        text = f"{row['problem']}\n\nWe work it out step by step. The answer is $\\boxed{{{answer}}}$."
        made.append({"id": i, "completion": text, "gold": row["answer"]})
    return made


def timed(command):
    """Wall seconds of a command that must succeed."""
    began = time.monotonic()
    path = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path})
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="PATH", help="rows with problem and answer, .jsonl.gz")
    parser.add_argument("--rows", type=int, default=5000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    seconds = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        given, bare, ours = (str(Path(folder) / name) for name in ("in.jsonl", "bare.jsonl", "ours.jsonl"))
        made = rows(arguments.data, arguments.rows)
        Path(given).write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        command = [sys.executable, "-m", "hybrid_lora.grading", "math", "--in", given, "--out", ours]
        for _ in range(arguments.rounds):
            seconds["bare"].append(timed([sys.executable, "-c", BARE, given, bare, str(arguments.workers)]))
            seconds["ours"].append(timed([*command, "--workers", str(arguments.workers)]))
        pairs = zip(*(map(json.loads, Path(path).read_text(encoding="utf-8").splitlines()) for path in (bare, ours)))
        differing = [one["id"] for one, other in pairs if one["correct"] != other["correct"]]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["bare"]
    result = {"rows": len(made), "workers": arguments.workers, "seconds": medians, "ratio": ratio, "differing": differing}
    print(json.dumps(result))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
