"""Snakemake runs of the tests' smallest configuration in copies of the checkout, on the cluster or on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests_workflow import REPO, copy_checkout

CONFIG = ["--configfile", "config/tiny.yaml", "tests/slurm/smallest.yaml"]
QUICK = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "20"]


def clone(target, source=REPO):
    """A copy of the checkout, as `git clone` and `make setup` leave it."""
    copy_checkout(target, source)
    (target / ".venv").symlink_to(Path(sys.executable).parents[1])
    return target


class Pipeline:
    """`snakemake --profile slurm` in `folder`, in the background; `said` is what it has printed so far."""

    def __init__(self, folder, environment, arguments=(), options=(*CONFIG, *QUICK)):
        self.folder, self.log = folder, folder / f"snakemake-{time.time():.0f}.txt"
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", *options, *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=user_environment(folder, environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Tests that a script starts with `&` ignore Ctrl-C, and their children would too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self):
        return self.log.read_text()

    def finish(self, seconds=600):
        """Wait for the end and return the exit status."""
        return self.process.wait(seconds)

    def end(self):
        """For fixtures: an end without waiting for jobs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def user_environment(folder, environment=None):
    """The environment of a user who has activated the copy's environment."""
    environment = dict(environment or os.environ)
    environment["PATH"] = f"{folder / '.venv/bin'}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(folder / "workflow")
    return environment


def unlock(folder, environment):
    """`snakemake --unlock`, as Snakemake tells a user whose Snakemake was killed."""
    command = [sys.executable, "-m", "snakemake", *CONFIG, "--unlock"]
    subprocess.run(command, cwd=folder, env=user_environment(folder, environment), check=True, capture_output=True)


def run_locally(folder, options=CONFIG, cores=2):
    """An undisturbed run on this machine; returns its results/."""
    command = [sys.executable, "-m", "snakemake", *options, "--cores", str(cores), "--scheduler", "greedy", "--show-failed-logs"]
    done = subprocess.run(
        command, cwd=folder, env=user_environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return folder / "results"
