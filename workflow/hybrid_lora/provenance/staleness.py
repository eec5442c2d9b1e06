"""Which artifacts today's configuration would make again, and why: a job's own differences, then what it reads, upwards.

It follows Snakemake: a job whose input is made again is made again, and a missing intermediate file is made only for a job that
needs it, so that it makes nothing stale by itself.
"""

import os
from dataclasses import dataclass

from hybrid_lora.provenance import differences


@dataclass(frozen=True)
class Verdict:
    """own: differences of the job's artifacts; upstream: (input, job) of inputs that are stale; missing: outputs not there."""

    own: tuple
    upstream: tuple
    missing: tuple

    @property
    def renewed(self):
        """Whether the job would run for a reason other than a missing output."""
        return bool(self.own or self.upstream)

    @property
    def state(self):
        """done | stale | missing."""
        return "missing" if self.missing else "stale" if self.renewed else "done"


class Staleness:
    """Verdicts of jobs, each found once."""

    def __init__(self, today, records):
        self.today, self.records, self._found = today, records, {}

    def of(self, job):
        """The Verdict of a job."""
        if job not in self._found:
            self._found[job] = self._judge(job)
        return self._found[job]

    def _judge(self, job):
        missing = tuple(path for path in job.outputs if not os.path.exists(path))
        own = {}  # of all outputs, each difference once
        for path in job.outputs:
            if path not in missing:
                own |= dict.fromkeys(differences.find(job, path, self.records))
        upstream = []
        for path in job.inputs:
            maker = self.today.producer(path)
            if maker is not None and self.of(maker).renewed:
                upstream.append((path, maker))
        return Verdict(tuple(own), tuple(upstream), missing)
