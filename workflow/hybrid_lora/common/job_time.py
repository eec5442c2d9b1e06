"""When the Slurm job that this process belongs to ends.

Slurm says so in SLURM_JOB_END_TIME since 23.02; an older one, such as Debian 12's 22.05, is asked with squeue.
"""

import contextlib
import math
import os
import subprocess
import sys
from datetime import datetime


def job_end():
    """In seconds since 1970, or None: outside of Slurm, without a limit, or where Slurm does not say (which is printed)."""
    if value := os.environ.get("SLURM_JOB_END_TIME"):
        with contextlib.suppress(ValueError):
            if 0 < float(value) < math.inf:
                return float(value)
        print(f"SLURM_JOB_END_TIME is '{value}', not a number of seconds: not heeded", file=sys.stderr, flush=True)
    job = os.environ.get("SLURM_JOB_ID")
    return _told(job) if job else None


def _told(job):
    """The end that squeue gives for a job, in local time; its SLURM_TIME_FORMAT could make it anything else."""
    environment = os.environ | {"SLURM_TIME_FORMAT": "standard"}
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        print(f"squeue does not tell the end of job {job}'s time ({reason}): not heeded", file=sys.stderr, flush=True)
        return None
    with contextlib.suppress(ValueError):  # N/A, NONE: a job without a limit
        return datetime.fromisoformat(done.stdout.strip().splitlines()[0]).timestamp() if done.stdout.strip() else None
    return None
