"""Benchmark: `status`, `why`, `verify` and `adopt` on a finished sweep of the paper's size; CPU only, no model is run.

    python tests/benchmarks/provenance.py [--folder FOLDER]

Copies the checkout into a temporary folder and puts down, for each job of config/paper/sweep.yaml, artifacts of a few bytes
with the manifests that the job would have written. Then it times the commands as processes of their own, and `snakemake -n`
before `adopt`, which is refused, and after it.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hybrid_lora.common import manifest
from hybrid_lora.common.files import sha256_file, write_json
from hybrid_lora.provenance import today

REPO = Path(__file__).resolve().parents[2]
SWEEP = ["--configfile", "config/paper/sweep.yaml"]
TARGETS = ("all", "train", "evaluate")


def put_down():
    """Artifacts and manifests of all jobs, in order; returns (runs, jobs)."""
    with today.read(SWEEP[1:]) as now:
        jobs = now.upstream([now.producer(path) for target in TARGETS for path in now.target(target)])
        for job in jobs:
            _make(job)
        return len(now.plan.runs), len(jobs)


def _make(job):
    folders = {os.path.dirname(path) for path in job.outputs if os.path.basename(path) == "manifest.json"}
    files = [path for path in job.outputs if os.path.basename(path) != "manifest.json"]
    for path in files:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(path, encoding="utf-8")
    about = manifest.describe(job.command, job.settings, {"inputs": job.inputs}, job.code)
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "weights").write_text(folder, encoding="utf-8")
        inside = [path for path in files if os.path.dirname(path) == folder]
        _seal(f"{folder}/manifest.json", about, [*inside, f"{folder}/weights"])
        files = [path for path in files if path not in inside]
    for path in files:
        _seal(f"{path}.manifest.json", about, [path])


def _seal(place, about, paths):
    listed = {os.path.basename(path): sha256_file(path) for path in paths}
    sizes = {os.path.basename(path): os.path.getsize(path) for path in paths}
    whole = {**about, "outputs": listed, "sizes": sizes}
    write_json(place, {**whole, "sha256": manifest.seal(whole)})


def timed(what, *command, refused=False):
    """Run a command, print its time and the last line it printed; returns the seconds. refused: it must fail."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    print(f"{what:<46} {seconds:6.1f} s   {said[-1][:110] if said else ''}", flush=True)
    if bool(done.returncode) != refused:
        sys.exit(f"{what}: exit status {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return seconds


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="an empty or missing folder that is kept; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch) / "checkout").absolute()
        skip = shutil.ignore_patterns("results", ".snakemake", ".venv*", ".git", "__pycache__")
        shutil.copytree(REPO, folder, ignore=skip, symlinks=True, dirs_exist_ok=True)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder / "workflow")
        made = subprocess.run([sys.executable, __file__, "--put-down"], stdout=subprocess.PIPE, text=True, check=True)
        runs, jobs = json.loads(made.stdout)
        print(f"{runs} runs, {jobs} jobs", flush=True)
        dry = ["snakemake", "-n", "--quiet", "rules", *SWEEP]
        timed("snakemake -n, no metadata: names adopt", *dry, refused=True)
        timed("status", "hybrid_lora", "status", *SWEEP)
        first = re.split(r"\t", (folder / "config/paper/sweep.tsv").read_text().splitlines()[-1])[0]
        timed("why, one file", "hybrid_lora", "why", f"results/evaluation/{first}/gpqa/metrics.json", *SWEEP)
        timed("verify", "hybrid_lora", "verify")
        timed("adopt", "hybrid_lora", "adopt", *SWEEP)
        timed("snakemake -n, adopted", *dry)
        print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:] == ["--put-down"]:
        print(json.dumps(put_down()))
    else:
        main()
