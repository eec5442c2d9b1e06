"""A mend of Snakemake's Slurm executor (2.8.0), for the process that sends jobs and asks for them.

Before each look at its jobs the executor asks the controller how long it remembers finished ones. While the controller does
not answer, the executor takes that for "not at all", asks sacct instead, which knows nothing without slurmdbd, and in the end
forgets its jobs: Snakemake waits for ever. Here the question waits for the controller.
"""

import functools
import sys
import time

EXECUTOR = "snakemake_executor_plugin_slurm"
EVERY, TIMES = 5.0, 120  # seconds between questions, and how many: as the profile's status checks


def wait_for_controller():
    """Mend the executor where this process has loaded it; calling it twice does no more."""
    module = sys.modules.get(EXECUTOR)
    if module is not None and not hasattr(module.get_min_job_age, "patient"):
        module.get_min_job_age = patient(module.get_min_job_age)


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
