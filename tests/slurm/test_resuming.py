"""A training that runs out of its job's time, and is preempted when it goes on, ends with the undisturbed training's results."""

import re
import shutil
import time
from datetime import datetime

import psutil
import pytest
from artifacts import differences
from machine import wait_for
from pipelines import CONFIG, QUICK, Pipeline, run_locally
from steps import PATIENCE, holders

LONG = [*CONFIG, "tests/slurm/long_training.yaml"]
POLICY = "results/training/hybrid/policy/manifest.json"
# Two minutes for the first attempt, of which a training leaves the last MARGIN seconds (checkpoints.stop_margin_s); then enough.
MARGIN = 30
SHORT_OF_TIME = ["--set-resources", "training:runtime=2*attempt**3"]


@pytest.fixture(scope="module")
def uninterrupted(undisturbed, tmp_path_factory):
    """results/ with the longer training, run on this machine without a cluster."""
    folder = shutil.copytree(undisturbed.parent, tmp_path_factory.mktemp("long") / "local", symlinks=True)
    return run_locally(folder, [POLICY, *LONG])


class Training:
    """The training's job on the cluster, seen through its log and its state."""

    def __init__(self, folder, cluster):
        self.cluster, self.results = cluster, folder / "results"
        self.run = Pipeline(folder, cluster.environment, [POLICY, *SHORT_OF_TIME], [*LONG, *QUICK])

    def jobs(self):
        """Its Slurm jobs, oldest first."""
        found = [job for job in self.cluster.jobs().values() if job.get("Comment") == "rule_training_wildcards_hybrid"]
        return sorted(found, key=lambda job: int(job["JobId"]))

    def resumed(self):
        """The step after which the process that writes the log resumed, None if it has not said so."""
        log = self.results / "logs/training/hybrid.log"
        steps = re.findall(r"training hybrid: resuming after step (\d+)", log.read_text(errors="replace") if log.exists() else "")
        return int(steps[-1]) if steps else None

    def saved_beyond(self, step):
        """Wait for a whole checkpoint beyond `step`: Slurm may kill before one that is being written is."""

        def found():
            folders = (self.results / ".state/training/hybrid").rglob("checkpoint-*")
            whole = [folder for folder in folders if folder.parent.name != ".saving"]
            return any(int(folder.name.split("-")[1]) > step for folder in whole) or self.fail_if_over()

        wait_for(found, f"a checkpoint beyond step {step}", PATIENCE)

    def hold(self, step):
        """The training's process, held still once it has saved a checkpoint beyond `step`: however fast the machine is."""
        self.saved_beyond(step)
        about = next(holders(self.results, "training/hybrid/policy"), None)
        if about:
            process = psutil.Process(about["pid"])
            process.suspend()
        return process if about else None

    def fail_if_over(self):
        if self.run.process.poll() is not None:
            pytest.fail(f"Snakemake has ended:\n{self.run.said[-5000:]}")


def test_a_training_interrupted_by_its_time_and_by_another_job_ends_as_if_it_were_not(cluster, uninterrupted, tmp_path_factory):
    folder = shutil.copytree(uninterrupted.parent, tmp_path_factory.mktemp("long") / "cluster", symlinks=True)
    for name in ("training", "logs/training", "benchmarks/training"):
        shutil.rmtree(folder / "results" / name)
    training = Training(folder, cluster)
    try:
        process = training.hold(0)
        end = datetime.fromisoformat(training.jobs()[0]["EndTime"]).timestamp()
        wait_for(lambda: time.time() > end - MARGIN + 1, "the margin of the first job's time", PATIENCE)
        if process:  # else it has met its end already
            process.resume()
        first_stop = wait_for(lambda: training.resumed() or training.fail_if_over(), "a training that resumes", PATIENCE)
        training.hold(first_stop)  # Slurm lets it go as it asks it to end
        cluster.run("srun", "--partition=urgent", "--cpus-per-task=16", "--mem=100", "true")
        assert training.run.finish(PATIENCE) == 0, training.run.said[-5000:]
    finally:
        training.run.end()
    assert training.resumed() > first_stop > 0
    out_of_time, preempted = training.jobs()
    assert (out_of_time["JobState"], out_of_time["TimeLimit"]) == ("FAILED", "00:02:00")  # it left by itself, not as TIMEOUT
    assert (preempted["JobState"], preempted["Restarts"]) == ("COMPLETED", "1")
    assert differences(folder / "results", uninterrupted) == []
