"""One pipeline that suffers every fault a cluster has, one stage after another, and ends with the undisturbed run's results.

The tests are one story and run in this order; one alone runs what comes before it undisturbed. Each holds the process of one
job still (SIGSTOP) as soon as it works, so that the fault meets it at work however fast the machine is.
"""

import signal
import time

import pytest
from artifacts import differences
from machine import wait_for
from pipelines import clone, unlock
from steps import PATIENCE, Story


@pytest.fixture(scope="module")
def story(cluster, undisturbed, tmp_path_factory):
    """Starts from a copy of the undisturbed run's checkout: the repository may be edited while the tests run."""
    story = Story(cluster, clone(tmp_path_factory.mktemp("faults") / "clone", undisturbed.parent))
    yield story
    story.close()


def test_results_that_cannot_be_written_are_one_line_before_any_job(story):
    story.needs_own_disk()
    story.disk("remount,ro")
    run = story.start()
    assert run.finish() == 1
    assert run.said.count("results: cannot be written (Read-only file system)") == 1
    assert "Traceback" not in run.said
    assert story.cluster.jobs() == {}
    story.disk("remount,rw")


def test_a_cancelled_job_is_sent_again_with_more_memory_and_time(story):
    process, job = story.hold("data/tiny/train.parquet")
    story.cluster.run("scancel", job)
    story.let_go(process)
    first, second = story.attempts("rule_corpus_wildcards_tiny", 2)
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    assert (first["MinMemoryNode"], first["TimeLimit"]) == ("4000M", "01:00:00")
    assert (second["MinMemoryNode"], second["TimeLimit"]) == ("8000M", "02:00:00")


def test_a_job_that_takes_more_memory_than_it_asked_for_is_sent_again_with_more(story):
    first, second = story.attempts("rule_model_pretrain_wildcards_tiny", 2)
    assert first["JobState"] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("250M", "4000M")
    assert second["JobState"] == "COMPLETED"
    printed = "".join(path.read_text() for path in (story.results / "logs/slurm").rglob(f"{first['JobId']}.log"))
    assert "oom" in printed or "exceeded memory limit" in printed


def test_a_node_that_restarts_gets_its_job_again(story):
    _, job = story.hold("probe/tiny/default/warmup")
    story.cluster.fail_node()
    story.cluster.start_node()
    (only,) = story.attempts("rule_warmup_wildcards_tiny_default", 1)
    assert (only["JobId"], only["Restarts"]) == (job, "1")


def test_a_job_that_runs_out_of_time_is_sent_again(story):
    process, job = story.hold("probe/tiny/default/sensitivity/chunk-000.parquet")
    story.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    first, second = story.attempts("rule_sensitivity_wildcards_tiny_default_000", 2)
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    assert second["TimeLimit"] == "04:00:00"
    story.let_go(process)


def test_jobs_go_on_without_snakemake_and_are_not_done_twice(story):
    """kill -9 of Snakemake; started again it sends a second job for the file that the first one is still making."""
    process, orphan = story.hold("scores/tiny/default/hybrid.parquet")
    story.run.end()
    story.start()
    assert story.run.finish() == 1
    assert "--unlock" in story.run.said
    unlock(story.folder, story.cluster.environment)
    story.start()
    log = story.results / "logs/scores/tiny.default.hybrid.log"
    wait_for(lambda: f"is being made by Slurm job {orphan}" in log.read_text(errors="replace"), "the second job waiting", 200)
    assert story.cluster.job(orphan)["JobState"] == "RUNNING"
    assert not (story.results / "scores/tiny/default/hybrid.parquet").exists()
    story.let_go(process)
    first, second = story.attempts("rule_scores_wildcards_tiny_default_hybrid", 2)
    assert (first["JobId"], first["JobState"], second["JobState"]) == (orphan, "COMPLETED", "COMPLETED")
    assert "nothing is left to do" in log.read_text(errors="replace")


def test_a_job_that_must_make_room_goes_on_later(story):
    _, job = story.hold("training/hybrid/policy")
    story.cluster.run("srun", "--partition=urgent", "--cpus-per-task=16", "--mem=100", "true")
    (only,) = story.attempts("rule_training_wildcards_hybrid", 1)
    assert (only["JobId"], only["Restarts"]) == (job, "1")


def test_ctrl_c_takes_the_jobs_along(story):
    _, job = story.hold("evaluation/hybrid/math-500/completions.parquet")
    story.run.process.send_signal(signal.SIGINT)
    assert story.run.finish(120) != 0
    wait_for(lambda: story.cluster.job(job)["JobState"] == "CANCELLED", "the job cancelled")
    wait_for(lambda: not story.cluster.run("squeue", "--noheader"), "an empty queue")


def test_a_controller_that_restarts_loses_nothing(story):
    process, job = story.hold("evaluation/hybrid/math-500/completions.parquet")
    story.cluster.stop("slurmctld")  # as a restart does: it saves its state (killed, it forgets its last seconds)
    story.let_go(process)
    time.sleep(20)  # the job ends, and Snakemake asks in vain
    story.cluster.start_controller()
    (only,) = story.attempts("rule_completions_wildcards_hybrid_math-500", 1, since=job)
    assert (only["JobId"], only["Restarts"]) == (job, "0")


def test_a_full_disk_ends_the_run_and_nothing_finished_is_lost(story):
    story.needs_own_disk()
    process, _ = story.hold("evaluation/hybrid/math-500/grades.parquet")
    before = story.inodes()
    story.fill()
    story.let_go(process)
    assert story.run.finish() == 1
    log = (story.results / "logs/evaluation/hybrid.math-500.grades.log").read_text()
    assert "No space left on device" in log + story.run.said
    assert "Traceback" not in log
    assert before.items() <= story.inodes().items()


def test_what_a_job_finishes_after_snakemake_was_killed_is_kept(story):
    story.make_room()
    process, job = story.hold("evaluation/hybrid/math-500/grades.parquet")
    story.run.end()
    story.let_go(process)
    wait_for(lambda: story.cluster.job(job)["JobState"] == "COMPLETED", "the job without Snakemake", PATIENCE)
    unlock(story.folder, story.cluster.environment)
    story.made, story.sent = story.inodes(), len(story.cluster.jobs())
    assert "evaluation/hybrid/math-500/grades.parquet" in story.made


def test_the_same_command_finishes_with_the_undisturbed_results(story, undisturbed):
    story.start()
    assert story.run.finish() == 0, story.run.said[-5000:]
    assert len(story.cluster.jobs()) == story.sent, "what was finished was sent again"
    assert story.made.items() <= story.inodes().items(), "what was finished was made again"
    assert differences(story.results, undisturbed) == []
    assert not [p for p in (story.results / ".state/leases").rglob("*") if p.is_file()]
