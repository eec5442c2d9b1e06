"""Copies of the checkout, and Snakemake run in them as a user would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked

REPO = Path(__file__).resolve().parents[2]
# Hidden folders are environments (gigabytes of .venv-vllm), caches and git's own; only these hidden names belong to a checkout.
HIDDEN = {".ci", ".gitignore"}
OUTPUTS = shutil.ignore_patterns("results", "__pycache__", "*.egg-info", "data")


def copy_checkout(target, source=REPO):
    """The checkout (or a copy of it) without results and environments; package folders named `data` are kept."""

    def ignore(folder, names):
        outputs = [name for name in OUTPUTS(folder, names) if name != "data" or Path(folder) == Path(source)]
        return [*outputs, *(name for name in names if name.startswith(".") and name not in HIDDEN)]

    shutil.copytree(source, target, ignore=ignore, symlinks=True)
    return target


def snakemake(folder, *arguments, config="config/tiny.yaml", check=True, environment=None, path=()):
    """Run Snakemake in a checkout as a user would; returns the finished process with stdout and stderr joined.

    config: a file or several; environment: variables to add; path: folders that come first on PYTHONPATH.
    """
    configs = [config] if isinstance(config, str) else config
    words = ["--cores", "2", "--scheduler", "greedy", "--show-failed-logs", "--configfile", *configs, *arguments]
    environment = {**os.environ, **(environment or {})}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*path, folder / "workflow"]))
    if "-n" in arguments:
        done = subprocess.CompletedProcess(words, *forked.main(words, folder, environment, path))
    else:
        command = [sys.executable, "-m", "snakemake", *words]
        done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check:
        assert done.returncode == 0, done.stdout[-5000:]
    return done
