"""`snakemake --profile slurm` from a fresh clone, with slurmdbd, an account and a QOS: every job through sbatch."""

import re

import pytest
from artifacts import differences
from cluster_settings import ACCOUNT, QOS
from pipelines import Pipeline, clone

LOCAL = {"benchmark", "allocation", "metrics", "figure2", "table1", "report_index"}
SITE = f"""
default-resources:
  - mem_mb=4000
  - runtime=60
  - slurm_account={ACCOUNT}
  - qos={QOS}
slurm-partition-config: partitions.yaml
"""
PARTITIONS = """
partitions:
  cpu: {max_runtime: 10080, max_threads: 16}
  gpu: {max_runtime: 10080, max_threads: 16, max_gpu: 2}
"""


@pytest.fixture(scope="module")
def finished(accounting_cluster, undisturbed, tmp_path_factory):
    """(folder, what Snakemake said, jobs by comment) of a finished run with a site's profile laid over ours."""
    folder = clone(tmp_path_factory.mktemp("fresh") / "clone", undisturbed.parent)
    site = folder / "site"
    site.mkdir()
    (site / "config.yaml").write_text(SITE)
    (site / "partitions.yaml").write_text(PARTITIONS)
    run = Pipeline(folder, accounting_cluster.environment, ["--profile", "site", "--slurm-keep-successful-logs"])
    try:
        assert run.finish() == 0, run.said[-5000:]
    finally:
        run.end()
    return folder, run.said, {job["Comment"]: job for job in accounting_cluster.jobs().values()}


def test_results_are_those_of_a_local_run(finished, undisturbed):
    assert differences(finished[0] / "results", undisturbed) == []


def test_jobs_name_their_rule_and_run(finished):
    jobs = finished[2]
    assert jobs.keys() == {
        "rule_corpus_wildcards_tiny",
        "rule_model_pretrain_wildcards_tiny",
        "rule_warmup_wildcards_tiny_default",
        "rule_sensitivity_wildcards_tiny_default_000",
        "rule_sensitivity_wildcards_tiny_default_001",
        "rule_scores_wildcards_tiny_default_hybrid",
        "rule_training_wildcards_hybrid",
        "rule_completions_wildcards_hybrid_math-500",
        "rule_grades_wildcards_hybrid_math-500",
    }
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert all(job["JobName"].startswith("hybrid_lora_") for job in jobs.values())


def test_the_database_knows_rule_account_and_qos(finished, accounting_cluster):
    told = accounting_cluster.run("sacct", "-X", "-n", "-P", "--format=Comment,Account,QOS,State").splitlines()
    assert f"rule_training_wildcards_hybrid|{ACCOUNT}|{QOS}|COMPLETED" in told


def test_small_rules_are_no_jobs(finished):
    sent = {comment.removeprefix("rule_").split("_wildcards_")[0] for comment in finished[2]}
    assert not sent & LOCAL
    for rule in LOCAL:
        assert f"(Rule: {rule})" in finished[1]


def test_requests_are_those_of_the_rules(finished):
    training = finished[2]["rule_training_wildcards_hybrid"]
    assert (training["Partition"], training["MinMemoryNode"], training["TimeLimit"]) == ("gpu", "16000M", "1-00:00:00")
    assert training["NumCPUs"] == "2"
    assert "gres/gpu=1" in training["TRES"]
    corpus = finished[2]["rule_corpus_wildcards_tiny"]
    assert (corpus["Partition"], corpus["MinMemoryNode"], corpus["TimeLimit"]) == ("cpu", "4000M", "01:00:00")
    assert "gres/gpu" not in corpus["TRES"]


def test_logs_say_what_the_job_was_given(finished):
    logs = finished[0] / "results/logs"
    said = re.search(r"^hybrid_lora: Slurm job (\d+) on \S+, .*, GPUs ([01])$", (logs / "training/hybrid.log").read_text(), re.M)
    assert said[1] == finished[2]["rule_training_wildcards_hybrid"]["JobId"]
    assert "GPUs none" in (logs / "data/tiny.log").read_text()
    assert list((logs / "slurm").rglob("*.log"))
