"""What became of every job so far: done, stale, running, failed or missing, and what it cost."""

import csv
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from hybrid_lora.common import alive
from hybrid_lora.common.errors import UserError
from hybrid_lora.provenance.staleness import Staleness

STATES = ("failed", "running", "stale", "missing", "done")  # of several jobs, the first that any has is shown


@dataclass
class Cost:
    """hours: of wall-clock time summed over jobs; gpu_hours: times the GPUs of each; peak_mb: the largest job's memory in MiB."""

    hours: float = 0.0
    gpu_hours: float = 0.0
    peak_mb: float = 0.0

    def add(self, other):
        """Add another cost to this one."""
        self.hours += other.hours
        self.gpu_hours += other.gpu_hours
        self.peak_mb = max(self.peak_mb, other.peak_mb)


@dataclass
class Cell:
    """The jobs of one stage of one run, counted by state."""

    states: Counter = field(default_factory=Counter)

    def text(self):
        """One word; with how many jobs are done where some are and some are missing or running."""
        if not self.states:
            return "-"
        state = next(state for state in STATES if self.states[state])
        partly = state in ("missing", "running") and self.states["done"]
        return f"{state} {self.states['done']}/{self.states.total()}" if partly else state


class Progress:
    """States and costs of jobs. `notes` collects a line for each that runs or failed."""

    def __init__(self, now, reader):
        self.records, self.staleness = reader, Staleness(now, reader)
        self.notes = {}
        self._signs = set(_signs())
        self._states, self._costs = {}, {}

    def state(self, job):
        """One of STATES."""
        if job not in self._states:
            sign = self._sign(job)
            if sign is not None:
                self.notes[job] = f"{sign['state']}: {job.outputs[0]}: {_said(sign, job.log)}"
            self._states[job] = sign["state"] if sign is not None else self.staleness.of(job).state
        return self._states[job]

    def cell(self, jobs):
        """The Cell of jobs."""
        return Cell(Counter(map(self.state, jobs)))

    def cost(self, jobs):
        """The Cost of jobs: of those whose artifacts are here, and of those that run, until now."""
        total = Cost()
        for job in jobs:
            if job not in self._costs:
                self._costs[job] = self._cost(job)
            total.add(self._costs[job])
        return total

    def _sign(self, job):
        for path in job.outputs:
            mark = str(alive.mark(path))
            if mark in self._signs:
                return alive.read(mark)
        return None

    def _cost(self, job):
        seconds, peak, on_gpu = 0.0, 0.0, False
        sign = self._sign(job)
        if sign is not None and sign["state"] == "running":
            seconds, on_gpu = time.time() - sign["started"], job.gpus > 0
        for path in job.outputs:
            about = self._manifest(path)
            if about is not None and sign is None and os.path.exists(path):
                seconds, peak = max(seconds, about.get("wall_s", 0)), max(peak, about.get("peak_memory_mb", 0))
                on_gpu |= not about.get("device", "cpu").startswith("cpu")
        if seconds and sign is None:
            whole, most = _benchmark(job.benchmark)
            seconds, peak = max(seconds, whole), max(peak, most)
        hours = seconds / 3600
        return Cost(hours, hours * max(job.gpus, 1) if on_gpu else 0.0, peak)

    def _manifest(self, path):
        try:
            return self.records.of(path)
        except UserError:  # damaged: shown as stale
            return None


def _signs():
    for folder, _, names in os.walk(alive.JOBS):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".json"))


def _benchmark(path):
    """(seconds, MiB) that Snakemake measured, which counts the start of Python too; zeros where it did not."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            row = list(csv.DictReader(file, delimiter="\t"))[-1]
    except (OSError, IndexError):
        return 0.0, 0.0
    return _number(row.get("s")), _number(row.get("max_rss"))


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):  # NA: it was over before it could be measured
        return 0.0


def _said(sign, log):
    if sign["state"] == "failed":
        return f"{sign['error']} ({log})"
    lines = _tail(log)
    told = next((line for line in reversed(lines) if re.search(r"\d+/\d+ \(\d+ %\)", line)), None)
    since = time.strftime("%H:%M", time.localtime(sign["started"]))
    return f"on {sign['host']} since {since}{', ' + told if told else ''}"


def _tail(path):
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
