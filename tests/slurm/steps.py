"""What the tests of faults do to a pipeline: hold a job still, look at its attempts, fill its disk."""

import contextlib
import json
import os
import subprocess

import psutil
import pytest
from artifacts import files
from machine import wait_for
from pipelines import Pipeline

# What the first attempt gets is far less than importing torch takes; just below it the kernel thrashes for minutes.
TOO_LITTLE = ["--set-resources", "model_pretrain:mem_mb=250*attempt**4"]
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
PATIENCE = 480  # seconds; a busy machine needs minutes for what takes seconds


def holders(results, artifact):
    """Leases {pid, job, ...} of results/`artifact` whose process lives."""
    path = results / ".state/leases" / artifact
    for lease in path.parent.glob(f"{path.name}.*"):
        with contextlib.suppress(OSError, ValueError):
            about = json.loads(lease.read_text())
            if psutil.pid_exists(about["pid"]):
                yield about


class Story:
    """One copy of the checkout on one cluster, whose results/ lie on a disk of their own where that is permitted."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder, self.results, self.run = cluster, folder, folder / "results", None
        self.results.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.results], capture_output=True, text=True)
        self.refused = done.stderr.strip() or None
        self.stopped = set()

    def close(self):
        """End what runs and take the disk away."""
        for process in self.stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.run:
            self.run.end()
        self.cluster.run("scancel", "--user=root", check=False)
        if not self.refused:
            with contextlib.suppress(RuntimeError):
                wait_for(lambda: not self.cluster.run("squeue", "--noheader"), "an empty queue", 30)
            subprocess.run(["umount", "--lazy", self.results], check=False)

    def start(self):
        """The user's command, always the same: the Pipeline."""
        self.run = Pipeline(self.folder, self.cluster.environment, TOO_LITTLE)
        return self.run

    def hold(self, artifact):
        """(process, Slurm job) that makes results/`artifact`, held still as soon as it works; starts Snakemake where it ended."""
        if self.run is None or self.run.process.poll() is not None:
            self.start()

        def working():
            if self.run.process.poll() is not None:
                pytest.fail(f"Snakemake ended before {artifact}:\n{self.run.said[-5000:]}")
            held = {process.pid for process in self.stopped}
            return next((about for about in holders(self.results, artifact) if about["pid"] not in held), None)

        about = wait_for(working, f"a job at work on {artifact}", PATIENCE)
        process = psutil.Process(about["pid"])
        process.suspend()
        self.stopped.add(process)
        return process, about["job"]

    def let_go(self, process):
        """Let a held process go on, if it still exists."""
        self.stopped.discard(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()

    def attempts(self, comment, count, since=0):
        """The jobs of one rule (from `since` on), oldest first, once there are `count`, all ended, the last one well."""

        def ended():
            snakemake_is_over = self.run.process.poll() is not None
            jobs = [job for job in self.cluster.jobs().values() if job.get("Comment") == comment]
            jobs = sorted((job for job in jobs if int(job["JobId"]) >= int(since)), key=lambda job: int(job["JobId"]))
            over = not any(job["JobState"] in ACTIVE for job in jobs)
            if over and len(jobs) == count and jobs[-1]["JobState"] == "COMPLETED":
                return jobs
            if over and snakemake_is_over:
                pytest.fail(f"{[job['JobState'] for job in jobs]} instead of {count} jobs {comment}:\n{self.run.said[-5000:]}")
            return None

        return wait_for(ended, f"{count} jobs {comment}", PATIENCE)

    def inodes(self):
        """{artifact: (inode, time)}: what is made again has others."""
        return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in files(self.results).items()}

    def needs_own_disk(self):
        """Skip where results/ could not be put on a disk of its own."""
        if self.refused:
            pytest.skip(f"no disk of its own for results/: {self.refused}")

    def disk(self, options):
        """Mount results/ again with other options."""
        subprocess.run(["mount", "-o", options, self.results], check=True)

    def fill(self):
        """Leave no page free."""
        used = os.statvfs(self.results)
        self.disk(f"remount,size={(used.f_blocks - used.f_bfree) * used.f_frsize}")

    def make_room(self):
        """The disk as it was."""
        if not self.refused:
            self.disk("remount,size=64m")
