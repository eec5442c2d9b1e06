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
# A minute for the first attempt, of which the training leaves the last MARGIN seconds (checkpoints.stop_margin_s); then enough.
MARGIN = 30
SHORT_OF_TIME = ["--set-resources", "training:runtime=attempt**4"]


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

    def resumed_after(self, more_than):
        """The step after which the process that writes the log resumed, once that is beyond `more_than`."""

        def found():
            self.fail_if_over()
            log = self.results / "logs/training/hybrid.log"
            said = log.read_text(errors="replace") if log.exists() else ""
            steps = re.findall(r"training hybrid: resuming after step (\d+)", said)
            return int(steps[-1]) if steps and int(steps[-1]) > more_than else None

        return wait_for(found, f"a training resuming after a step beyond {more_than}", PATIENCE)

    def saved_beyond(self, step):
        """Wait for a checkpoint beyond `step`."""

        def found():
            self.fail_if_over()
            folders = (self.results / ".state/training/hybrid").rglob("checkpoint-*")
            return any(int(folder.name.split("-")[1]) > step for folder in folders if folder.is_dir())

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
        first_stop = training.resumed_after(0)
        training.hold(first_stop)  # Slurm lets it go as it asks it to end
        cluster.run("srun", "--partition=urgent", "--cpus-per-task=16", "--mem=100", "true")
        training.resumed_after(first_stop)
        assert training.run.finish(PATIENCE) == 0, training.run.said[-5000:]
    finally:
        training.run.end()
    out_of_time, preempted = training.jobs()
    assert (out_of_time["JobState"], out_of_time["TimeLimit"]) == ("FAILED", "00:01:00")  # it left by itself, not as TIMEOUT
    assert (preempted["JobState"], preempted["Restarts"]) == ("COMPLETED", "1")
    assert differences(folder / "results", uninterrupted) == []
