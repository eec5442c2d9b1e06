"""Two mends of Snakemake's Slurm executor (2.8.0), for the process that sends jobs and asks for them.

Before each look at its jobs the executor asks the controller how long it remembers finished ones. While the controller does
not answer, the executor takes that for "not at all", asks sacct instead, which knows nothing without slurmdbd, and in the end
forgets its jobs: Snakemake waits for ever. Here the question waits for the controller.

While it looks at its jobs the executor has none on its list, and Ctrl-C in that moment cancels none. Here all jobs that bear the
run's name are cancelled.
"""

import functools
import subprocess
import sys
import time

EXECUTOR = "snakemake_executor_plugin_slurm"
EVERY, TIMES = 5.0, 120  # seconds between questions, and how many: as the profile's status checks


def mend():
    """Mend the executor where this process has loaded it; calling it twice does no more."""
    module = sys.modules.get(EXECUTOR)
    if module is not None and not hasattr(module.get_min_job_age, "patient"):
        module.get_min_job_age = patient(module.get_min_job_age)
        module.Executor.cancel_jobs = thorough(module.Executor.cancel_jobs)


def patient(ask):
    """`ask`, asked again until it gives something else than None, or the last None."""

    @functools.wraps(ask)
    def answer():
        for _ in range(TIMES):
            if (found := ask()) is not None:
                return found
            time.sleep(EVERY)
        return None

    answer.patient = True
    return answer


def thorough(cancel):
    """`Executor.cancel_jobs` that goes on to cancel whatever else bears the run's name."""

    @functools.wraps(cancel)
    def cancel_jobs(self, active_jobs):
        try:
            cancel(self, active_jobs)
        finally:
            try:
                subprocess.run(["scancel", f"--name={self.run_uuid}"], capture_output=True, timeout=60)
            except (OSError, subprocess.SubprocessError) as error:
                self.logger.warning(f"scancel --name={self.run_uuid}: {error}")

    return cancel_jobs
