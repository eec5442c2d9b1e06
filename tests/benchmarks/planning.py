"""What Snakemake costs before any job starts: the paper's full sweep and the demo, nothing done and everything done.

    python tests/benchmarks/planning.py                     # both, minutes
    python tests/benchmarks/planning.py --configfile config/demo.yaml

"Everything done" is synthetic: a file is written for every output and Snakemake records the job as finished, with the
settings, code and checksums of its inputs, as after a real run; no job runs. The bounds (issue 5): a dry run of the sweep in
25 s and 1 GB, everything up to date in 30 s for the sweep, in 5 s for the demo, on two cores. On a busy machine the
processor time says more than the time on the clock.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BOUNDS = {"config/paper/sweep.yaml": (25, 30), "config/demo.yaml": (25, 5)}  # seconds: dry run, up to date
# Run by a Python of its own: Snakemake whose `--touch` writes what is missing and does not wait between files.
FINISH = """
import sys
from pathlib import Path
from snakemake.executors import touch

def run_job(self, job):
    for number, name in enumerate(filter(None, [*job.output, job.benchmark])):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{job.rule.name} {number} ' * 200)
    self.report_job_submission(info := touch.SubmittedJobInfo(job=job))
    self.report_job_success(info)

touch.Executor.run_job = run_job
from snakemake.cli import main
main(sys.argv[1:])
"""


def measured(folder, *words, program=("-m", "snakemake")):
    """(seconds on the clock, of the processor, peak memory in MB, output) of one Snakemake."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow")}
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen([sys.executable, *program, *words], cwd=folder, env=environment, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        out.seek(0)
        said = out.read()
    if child.returncode:
        sys.exit(f"snakemake {' '.join(words)} failed:\n{said[-3000:]}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def checkout(target):
    """A copy of the checkout without results."""
    ignore = shutil.ignore_patterns("results", ".snakemake", ".venv*", ".git", "__pycache__", ".*_cache")
    shutil.copytree(REPO, target, ignore=ignore, symlinks=True)
    return target


def benchmark(config, folder):
    """A dict of figures for one configuration file."""
    words = ["--cores", "2", "--scheduler", "greedy", "--configfile", config]
    wall, cpu, memory, said = measured(folder, *words, "-n", "--quiet", "rules", "reason")
    found = {"configuration": config, "jobs": int(re.search(r"^total +(\d+)$", said, re.MULTILINE)[1])}
    found["dry run"] = {"s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_mb": round(memory)}
    graph = measured(folder, *words, "--rulegraph", "dot")[3]
    found["nodes of the rule graph"] = len(set(re.findall(r"^\s*(\d+)\[", graph, re.MULTILINE)))
    found["edges of the rule graph"] = len(re.findall(r"\d+ -> \d+", graph))
    measured(folder, *words, "--touch", "--quiet", "all", program=("-c", FINISH))
    _up_to_date(found, "up to date", folder, words)
    for path in folder.rglob("*.py"):
        os.utime(path)
    _up_to_date(found, "up to date, all code touched", folder, words)
    return found


def _up_to_date(found, name, folder, words):
    wall, cpu, memory, said = measured(folder, *words)
    if "Nothing to be done" not in said:
        sys.exit(f"{name}: something is to be done:\n{said[-3000:]}")
    found[name] = {"s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_mb": round(memory)}


def main():
    """Print one JSON object a configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", nargs="+", default=list(BOUNDS), metavar="FILE")
    for config in parser.parse_args().configfile:
        with tempfile.TemporaryDirectory() as scratch:
            found = benchmark(config, checkout(Path(scratch) / "checkout"))
        if config in BOUNDS:
            dry, done = BOUNDS[config]
            found["bounds"] = {"dry run, s": dry, "up to date, s": done, "peak_mb": 1000}
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
