"""Benchmark: `status`, `why`, `verify` and `adopt` on a finished sweep of the paper's size; CPU only, no model is run.

    python tests/benchmarks/provenance.py [--seeds 5] [--folder FOLDER]

Copies the checkout into a temporary folder, writes a runs table of three models, all methods, GRPO and GSPO and some seeds,
and puts down for each of its jobs artifacts of a few bytes with the manifests that the job would have written. Then it times
the commands as processes of their own, and `snakemake -n` before and after `adopt`: without metadata, and with it.
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
MODELS = ("qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b")
WITHOUT_BUDGET = ("full-ft", "lora", "lora-ffn")
BY_CRITERION = ("hybrid", "hybrid-1", "hybrid-2", "hybrid-3", "hybrid-4", "adalora", "autolora", "lora-drop", "random")
TARGETS = ("all", "train", "evaluate")


def write_runs(path, seeds):
    """The runs table of the sweep; returns how many runs it has."""
    rows = []
    for model in MODELS:
        for seed in range(seeds):
            rows += [(f"{model}-{method}-{seed}", model, method, "-", "-", seed) for method in ("io", "cot")]
            for objective in ("grpo", "gspo"):
                for method in (*WITHOUT_BUDGET, *BY_CRITERION):
                    budget = "-" if method in WITHOUT_BUDGET else "0.1"
                    rows.append((f"{model}-{objective}-{method}-{seed}", model, method, objective, budget, seed))
    header = ("run", "model", "method", "objective", "budget", "seed")
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [header, *rows]), encoding="utf-8")
    return len(rows)


def put_down(runs):
    """Artifacts and manifests of all jobs, in order; returns how many jobs there are."""
    with today.read([], [f"runs={runs}"]) as now:
        jobs = now.upstream([now.producer(path) for target in TARGETS for path in now.target(target)])
        for job in jobs:
            _make(job)
    return len(jobs)


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


def timed(what, *command):
    """Run a command, print its time and the last line it printed; returns the seconds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    print(f"{what:<46} {seconds:6.1f} s   {said[-1][:110] if said else ''}", flush=True)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return seconds


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="an empty or missing folder that is kept; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch) / "checkout").absolute()
        skip = shutil.ignore_patterns("results", ".snakemake", ".venv*", ".git", "__pycache__")
        shutil.copytree(REPO, folder, ignore=skip, symlinks=True, dirs_exist_ok=True)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder / "workflow")
        runs = write_runs(folder / "config/sweep.tsv", arguments.seeds)
        made = subprocess.run([sys.executable, __file__, "--put-down"], capture_output=True, text=True, check=True)
        print(f"{runs} runs, {json.loads(made.stdout)} jobs", flush=True)
        given = ["--config", "runs=config/sweep.tsv"]
        dry = ["snakemake", "-n", "--quiet", "rules", *given]
        timed("snakemake -n, no metadata", *dry)
        timed("status", "hybrid_lora", "status", *given)
        first = re.split(r"\s", (folder / "config/sweep.tsv").read_text().splitlines()[-1])[0]
        timed("why, one file", "hybrid_lora", "why", f"results/evaluation/{first}/gpqa/metrics.json", *given)
        timed("verify", "hybrid_lora", "verify")
        timed("adopt", "hybrid_lora", "adopt", *given)
        timed("snakemake -n, adopted", *dry)
        print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:] == ["--put-down"]:
        print(put_down("config/sweep.tsv"))
    else:
        main()
