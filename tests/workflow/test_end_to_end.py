"""The whole pipeline on the tiny configuration: what comes out, and what runs again."""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from tests_workflow import copy_checkout, snakemake

BENCHMARKS = ("math-500", "aime-24", "aime-25", "mmlu-pro", "gpqa", "leetcode")
RUNS = ("io", "cot", "hybrid", "lora", "full-ft")


def jobs(output):
    """{rule: count} of a dry run's job statistics."""
    table = re.search(r"Job stats:\n.*\n-+  -+\n((?:.+\n)+)", output)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {name: int(count) for name, count in rows if name not in ("total", "all")}


def test_artifacts(finished):
    results = finished / "results"
    allocation = json.loads((results / "allocation/tiny.default.hybrid.params-0.1.json").read_text())
    assert allocation["fft"]
    assert len(allocation["fft"]) + len(allocation["lora"]["names"]) == allocation["counts"]["candidates"] == 14
    dumps = [pq.read_table(path) for path in sorted((results / "probe/tiny/default/sensitivity").glob("*.parquet"))]
    assert [sorted(set(d["batch"].to_pylist())) for d in dumps] == [[0, 1], [2, 3]]
    scores = pq.read_table(results / "scores/tiny/default/hybrid.parquet").to_pylist()
    first = [row["module"] for row in sorted(scores, key=lambda row: row["rank"])]
    assert first[: len(allocation["fft"])] == allocation["fft"]
    adapter = load_file(results / "training/hybrid/policy/adapter_model.safetensors")
    whole = {key.removeprefix("base_model.model.").rsplit(".", 1)[0] for key in adapter if "lora_" not in key}
    assert whole == set(allocation["fft"])
    for run in RUNS:
        for benchmark in BENCHMARKS:
            folder = results / "evaluation" / run / benchmark
            metrics = json.loads((folder / "metrics.json").read_text())
            grades = pq.read_table(folder / "grades.parquet")
            assert grades.num_rows == metrics["n"] * metrics["samples"]
            assert 0 <= metrics["low"] <= metrics["value"] <= metrics["high"] <= 1
    assert (results / "report/figure2.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((results / ".state").rglob("*.*"))


def test_numbers_inside_of_config_are_numbers(finished):
    """Snakemake itself reads them as text."""
    same = ["--config", "objectives={gspo: {kl: 0.01, steps: 2}}", "evaluation={batch_size: 64}"]
    assert "Nothing to be done" in snakemake(finished, "-n", *same).stdout
    other = snakemake(finished, "-n", "--config", "objectives={gspo: {steps: 4}}", "compute={gpus: 2}").stdout
    assert {"training", "completions"} <= jobs(other).keys()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here, so nothing is missing")
@pytest.mark.parametrize(
    "key, change",
    [("objectives.gspo.rollouts", "objectives={gspo: {rollouts: vllm}}"), ("evaluation.backend", "evaluation={backend: vllm}")],
)
def test_vllm_is_missed_before_the_first_job(key, change, finished):
    done = snakemake(finished, "--config", change, check=False)
    assert done.returncode != 0 and "Finished job" not in done.stdout
    assert f"\n--config: {key}: vllm is to sample, which is not installed here; install envs/gpu.lock" in done.stdout


def test_table_equals_its_files(finished):
    results = finished / "results"
    rows = list(csv.DictReader((results / "report/table1.csv").open()))
    assert [row["run"] for row in rows] == list(RUNS)
    text = json.dumps(rows)
    for run in ("hybrid", "lora", "full-ft"):
        total = json.loads((results / f"training/{run}/trainable.json").read_text())["total"]
        assert str(total) in text


def test_every_artifact_has_a_manifest(finished):
    results = finished / "results"
    for path in [*results.rglob("*.parquet"), *(results / "allocation").glob("*[0-9].json"), *results.rglob("metrics.json")]:
        beside, inside = path.with_name(path.name + ".manifest.json"), path.parent / "manifest.json"
        training = path.name == "history.parquet"
        assert beside.exists() or inside.exists() or training, path


def test_second_run_does_nothing(finished):
    assert "Nothing to be done" in snakemake(finished).stdout


@pytest.mark.parametrize(
    ("edit", "rules"),
    [
        # (file, old, new) -> rules that must run again, with counts; all others must not
        (("config/config.yaml", "    digits: 1 ", "    digits: 2 "), {"table1": 1, "report_index": 1}),
        (
            (
                "config/tiny.yaml",
                "grading: {sandbox: auto, program_timeout_s: 5",
                "grading: {sandbox: auto, program_timeout_s: 6",
            ),
            {"training": 2, "completions": 12, "grades": 15, "metrics": 15, "table1": 1, "report_index": 1},
        ),
        (
            ("workflow/hybrid_lora/evaluation/metrics.py", '"""', '"""Edited. '),
            {"metrics": 30, "table1": 1, "report_index": 1},
        ),
        (("workflow/hybrid_lora/report/figure2.py", '"""', '"""Edited. '), {"figure2": 1, "report_index": 1}),
    ],
    ids=["table digits", "grading setting", "metrics code", "figure code"],
)
def test_an_edit_reruns_its_stage_and_below(finished, edit, rules):
    path = finished / edit[0]
    before = path.read_text()
    assert edit[1] in before
    try:
        path.write_text(before.replace(edit[1], edit[2], 1))
        assert jobs(snakemake(finished, "-n").stdout) == rules
    finally:
        path.write_text(before)
    assert "Nothing to be done" in snakemake(finished, "-n").stdout


def test_more_partitions_add_chunks_only(finished):
    path = finished / "config/tiny.yaml"
    before = path.read_text()
    try:
        path.write_text(before.replace("partitions: 4", "partitions: 6"))
        found = jobs(snakemake(finished, "-n").stdout)
        assert found["sensitivity"] == 1
        assert "warmup" not in found
        path.write_text(before.replace("partitions: 4", "partitions: 2"))
        assert "sensitivity" not in jobs(snakemake(finished, "-n").stdout)
    finally:
        path.write_text(before)


def test_the_shell_line_of_a_log_runs_by_hand(finished, tmp_path):
    """What Snakemake prints for a job can be copied into a shell."""
    output = snakemake(finished, "-n", "-p", "-f", "results/scores/tiny/default/hybrid.parquet").stdout
    line = next(line.strip() for line in output.splitlines() if "python -m hybrid_lora.scores" in line)
    words = shlex.split(line[line.index("python -m") :].split(" > ")[0])
    words[words.index("--out") + 1] = str(tmp_path / "copy.parquet")
    subprocess.run([sys.executable, *words[1:]], cwd=finished, check=True)
    ours = pq.read_table(tmp_path / "copy.parquet")
    assert ours.equals(pq.read_table(finished / "results/scores/tiny/default/hybrid.parquet"))


@pytest.mark.parametrize("profile", ["slurm", "workflow/profiles/demo", "workflow/profiles/gpu"])
def test_profiles_resolve_from_a_fresh_clone(profile, tmp_path):
    folder = copy_checkout(tmp_path / "clone")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", profile, "-n"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "workflow")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "training" in jobs(done.stdout + done.stderr)


def test_mistake_is_one_line_before_any_job(finished):
    path = finished / "config/tiny.tsv"
    before = path.read_text()
    try:
        path.write_text(before.replace("\thybrid\t", "\thybird\t", 1))
        done = snakemake(finished, check=False)
    finally:
        path.write_text(before)
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if "hybird" in line]
    assert len(said) == 1
    assert "did you mean 'hybrid'" in said[0]
    assert "Traceback" not in done.stdout


def test_deleted_work_is_made_again(finished):
    shutil.rmtree(finished / "results/report")
    assert set(jobs(snakemake(finished, "-n").stdout)) == {"figure2", "table1", "report_index"}
    snakemake(finished)
    assert (finished / "results/report/figure2.svg").exists()
