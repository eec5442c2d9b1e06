"""Results in a fresh copy without `.snakemake/`: verify, adopt, and what reruns then; why and status on real artifacts."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_end_to_end import jobs
from tests_workflow import snakemake

pytestmark = pytest.mark.matrix

CONFIG = ("--configfile", "config/tiny.yaml")
TWEAKS = {  # file, old, new
    "digits": ("config/config.yaml", "    digits: 1 ", "    digits: 2 "),
    "temperature": ("config/tiny.yaml", "aime-25: {data: generated,", "aime-25: {data: generated, temperature: 0.7,"),
    "K up": ("config/tiny.yaml", "partitions: 4", "partitions: 6"),
    "K down": ("config/tiny.yaml", "partitions: 4", "partitions: 2"),
    "probe seed": ("config/tiny.yaml", "warmup: {steps: 4,", "warmup: {steps: 4, seed: 5,"),
    "grader": ("workflow/hybrid_lora/grading/boxed.py", '"""', '"""Edited. '),
    "training code": ("workflow/hybrid_lora/training/train.py", '"""', '"""Edited. '),
    "a run more": ("config/tiny.tsv", "io\ttiny", "io2\ttiny\tio\t-\t-\t1\nio\ttiny"),
    "a comment": ("Snakefile", "rule all", "# a comment\nrule all"),
}
SAME = ("rule", "input", "log", "params", "code", "conda_env", "software_stack_hash", "input_checksums", "record_format_version")


def ours(folder, *arguments, status=0):
    """Run `hybrid_lora` in a checkout; its output, both streams. The exit status must be `status`."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow"), "COLUMNS": "250"}
    command = [sys.executable, "-m", "hybrid_lora", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == status, done.stdout[-3000:]
    assert "Traceback" not in done.stdout
    return done.stdout


def copied(folder, target):
    """Another place with the same files but for `.snakemake`, and with times in an order that means nothing."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".snakemake", "__pycache__"), symlinks=True)
    for number, path in enumerate(sorted((p for p in target.rglob("*") if not p.is_symlink()), reverse=True)):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return target


class edited:
    """Text in a file replaced while the body runs."""

    def __init__(self, folder, file, old, new):
        self.path, self.old, self.new = folder / file, old, new

    def __enter__(self):
        self.before = self.path.read_text()
        assert self.old in self.before
        self.path.write_text(self.before.replace(self.old, self.new, 1))

    def __exit__(self, *_):
        self.path.write_text(self.before)


def refused(folder, *arguments):
    """Snakemake's complaint about results that it has no record of, before any job: the artifact that it names."""
    done = snakemake(folder, "-n", *arguments, check=False)
    assert done.returncode == 1 and not jobs(done.stdout), done.stdout[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if "not on record" in line]
    assert "Run `hybrid_lora adopt` with the same --configfile" in line
    return line.split(": ")[0]


@pytest.fixture(scope="session")
def adopted(finished, tmp_path_factory):
    """A copy of the finished checkout, adopted."""
    folder = copied(finished, tmp_path_factory.mktemp("copy") / "elsewhere")
    refused(folder)
    said = ours(folder, "adopt", *CONFIG)
    assert "adopted" in said and "left out" not in said
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """A copy to damage."""
    return copied(finished, tmp_path / "copy")


def metadata(folder):
    """{file name of a record: its content} of what Snakemake keeps."""
    return {path.name: json.loads(path.read_text()) for path in (folder / ".snakemake/metadata").iterdir()}


def test_adopted_results_are_up_to_date(adopted):
    assert "Nothing to be done" in snakemake(adopted, "-n").stdout
    assert "Nothing to be done" in snakemake(adopted).stdout


def test_adopted_metadata_is_that_of_the_jobs_that_ran(finished, adopted):
    """So every later tweak reruns what it would where the results were made."""
    old, new = metadata(finished), metadata(adopted)
    more = {base64.b64decode(name).decode() for name in set(old) - set(new)}
    assert new and set(new) <= set(old)
    assert all(name.startswith("results/report/diagnose-") for name in more)  # what another test asked for there
    for name, record in new.items():
        assert {key: record[key] for key in SAME} == {key: old[name][key] for key in SAME}


@pytest.mark.parametrize("name", TWEAKS)
def test_a_tweak_reruns_what_it_would_have_at_home(finished, adopted, name):
    found = []
    for folder in (finished, adopted):
        with edited(folder, *TWEAKS[name]):
            found.append(jobs(snakemake(folder, "-n").stdout))
    assert found[0] == found[1]
    assert bool(found[0]) == (name != "a comment")


def test_results_of_other_settings_are_not_taken_for_todays(copy):
    """By their times all would be up to date."""
    for path in (p for p in copy.rglob("*") if not p.is_symlink()):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    with edited(copy, *TWEAKS["temperature"]):
        assert refused(copy, "evaluate").startswith("results/")


def test_what_a_killed_snakemake_left_is_no_foreign_result(finished, tmp_path):
    """It had begun a job, which ended without it; asked to make again what is incomplete, the job finds it made."""
    folder = shutil.copytree(finished, tmp_path / "killed", symlinks=True)
    artifact = "results/evaluation/io/gpqa/metrics.json"
    name = base64.b64encode(artifact.encode()).decode()
    mark = (folder / ".snakemake/metadata" / name).rename(folder / ".snakemake/incomplete" / name)
    assert jobs(snakemake(folder, "-n", "--rerun-incomplete", artifact).stdout) == {"metrics": 1}
    mark.unlink()
    assert refused(folder, "--rerun-incomplete", artifact) == artifact
    snakemake(folder, "--touch", "--force", artifact)  # vouched for
    assert "Nothing to be done" in snakemake(folder, "-n", artifact).stdout


def test_a_deleted_file_is_made_again_after_adopting(adopted):
    path = adopted / "results/evaluation/io/gpqa/metrics.json"
    aside = path.rename(path.with_name("aside"))
    try:
        found = jobs(snakemake(adopted, "-n", "results/evaluation/io/gpqa/metrics.json").stdout)
    finally:
        aside.rename(path)
    assert found == {"metrics": 1}


def test_another_configuration_adopts_what_matches(copy):
    with edited(copy, *TWEAKS["temperature"]), edited(copy, *TWEAKS["digits"]):
        said = ours(copy, "adopt", *CONFIG)
        left_out = set(re.findall(r"^  (results/\S+)", said, re.MULTILINE))
        completions = {
            f"results/evaluation/{run}/aime-25/completions.parquet" for run in ("io", "cot", "hybrid", "lora", "full-ft")
        }
        assert left_out == {*completions, "results/report/table1.csv"}
        assert "setting temperature: was 1" in said and "now 0.7" in said
        expected = {"completions": 5, "grades": 5, "metrics": 5, "table1": 1, "report_index": 1}
        dry = snakemake(copy, "-n").stdout
        assert jobs(dry) == expected
        assert "hybrid_lora adopt: setting temperature" in dry  # the reason that Snakemake shows
    ours(copy, "adopt", *CONFIG)
    assert "Nothing to be done" in snakemake(copy, "-n").stdout


def test_damage_is_named_left_out_and_mended_by_a_rerun(copy):
    results = copy / "results"
    with (results / "evaluation/io/gpqa/grades.parquet").open("r+b") as file:
        file.seek(50)
        byte = file.read(1)
        file.seek(50)
        file.write(bytes([byte[0] ^ 1]))
    os.truncate(results / "data/benchmarks/aime-24.parquet", 1000)
    (results / "report/figure2.svg").unlink()
    (results / "report/notes.txt").write_text("mine")
    (results / "training/lora/policy/more.safetensors").write_text("not ours")
    path = results / "scores/tiny/default/hybrid.parquet.manifest.json"
    path.write_text(path.read_text().replace('"stage"', '"Stage"'))
    shutil.rmtree(results / "allocation")
    said = ours(copy, "verify", status=2)
    for name, what in {
        "evaluation/io/gpqa/grades.parquet": "altered",
        "data/benchmarks/aime-24.parquet": "truncated: 1,000 of",
        "report/figure2.svg": "missing",
        "report/notes.txt": "no manifest",
        "training/lora/policy/more.safetensors": "foreign",
        "scores/tiny/default/hybrid.parquet.manifest.json": "not a manifest",
        "scores/tiny/default/hybrid.parquet": "cannot be checked",
        "allocation/tiny.default.hybrid.params-0.1.json": "missing, and so is its manifest",
    }.items():
        assert re.search(rf"^results/{re.escape(name)}: .*{what}", said, re.MULTILINE), name
    assert "8 problems" in said
    assert "all as they were made" in ours(copy, "verify", "results/models", "results/evaluation/io/gpqa/metrics.json")
    said = ours(copy, "adopt", *CONFIG, status=2)
    assert "results/report/notes.txt" in said and "truncated" in said
    (results / "report/notes.txt").unlink()
    planned = jobs(snakemake(copy, "-n").stdout)
    assert planned["benchmark"] == planned["scores"] == planned["allocation"] == planned["figure2"] == 1
    assert "model_pretrain" not in planned and "sensitivity" not in planned
    snakemake(copy)
    assert "all as they were made" in ours(copy, "verify")


def test_adopting_nothing_and_while_snakemake_runs(copy, tmp_path):
    assert "no such file; run this in the folder" in ours_elsewhere(tmp_path, copy)
    locks = copy / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text("results/report/table1.md\n")
    assert "Snakemake runs here now" in ours(copy, "adopt", *CONFIG, status=2)


def ours_elsewhere(folder, checkout):
    """Output of `why` in a folder that is no checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "workflow")}
    command = [sys.executable, "-m", "hybrid_lora", "why", "results/a"]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 1
    return done.stdout


TABLE = "results/report/table1.md"


def test_why_follows_the_chain(finished):
    assert f"{TABLE} is up to date" in ours(finished, "why", TABLE, *CONFIG)
    with edited(finished, *TWEAKS["temperature"]), edited(finished, *TWEAKS["digits"]):
        lines = ours(finished, "why", TABLE, *CONFIG).splitlines()
        assert lines[0] == f"{TABLE} is stale:"
        assert "  setting digits: was 1, now 2 [report.table1.digits in config/config.yaml]" in lines
        first = lines.index("  input results/evaluation/io/aime-25/metrics.json and 4 more like it are stale too:")
        assert lines[first + 1] == "    input results/evaluation/io/aime-25/completions.parquet is stale too:"
        found = re.fullmatch(r" +setting temperature: was 1(\.0)?, now 0.7 \[(\S+) in (\S+)\]", lines[first + 2])
        assert found.group(2, 3) == ("benchmarks.aime-25.temperature", "config/tiny.yaml")
        assert "math-500" not in "\n".join(lines)
        assert "evaluate: 25 of 30 files are up to date" in ours(finished, "why", "evaluate", *CONFIG)


def test_why_names_code_packages_and_inputs(copy):
    policy = "results/training/hybrid/policy"
    with edited(copy, *TWEAKS["grader"]):
        said = ours(copy, "why", policy, *CONFIG)
    assert re.search(r"^  code hybrid_lora/grading/boxed.py: edited \(sha256 was \w+, now \w+\)$", said, re.MULTILINE)
    with edited(copy, *TWEAKS["K up"]):
        said = ours(copy, "why", "results/scores/tiny/default/hybrid.parquet", *CONFIG)
    assert "chunk-002.parquet: was not read, now is" in said
    allocation = copy / "results/allocation/tiny.default.hybrid.params-0.1.json"
    allocation.write_text(allocation.read_text() + " ")
    assert "was altered after it was made" in ours(copy, "why", allocation, *CONFIG)
    said = ours(copy, "why", policy, *CONFIG)
    assert "input results/allocation/tiny.default.hybrid.params-0.1.json: its content is not what it was" in said
    said = ours(copy, "why", allocation, *CONFIG, "--config", "allocation={overflow: skip}")
    assert 'setting overflow: was "stop", now "skip" [allocation.overflow in --config]' in said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("results/nothing.json", "no such file or target, and nothing in this configuration makes it"),
        ("Snakefile", "not an artifact"),
    ],
)
def test_why_is_clear_about_what_it_cannot_explain(finished, file, said):
    found = ours(finished, "why", file, *CONFIG, status=2).splitlines()
    assert len(found) == 1 and file in found[0] and said in found[0]


def test_why_of_another_configuration(finished):
    said = ours(finished, "why", "results/models/tiny", status=2)
    assert "model.pretrain made it, but nothing in this configuration does" in said


def states(said):
    """{run: {column: state}} of a status table."""
    lines = said.splitlines()
    table = lines[: lines.index("")]
    names = table[0].split()[:13]
    return {line.split()[0]: dict(zip(names[1:], re.split(r"  +", line)[1:])) for line in table[1:]}


def test_status_shows_stages_and_costs(finished):
    said = ours(finished, "status", *CONFIG)
    found = states(said)
    assert list(found) == ["io", "cot", "hybrid", "lora", "full-ft"]
    assert set(found["hybrid"].values()) - {"done"} == set()
    assert (found["io"]["probe"], found["io"]["training"], found["io"]["gpqa"]) == ("-", "-", "done")
    hours = float(re.search(r"in all: ([\d.]+) h", said)[1])
    walls = [float(line.split("\t")[0]) for line in _benchmarks(finished)]
    assert hours == pytest.approx(sum(walls) / 3600, rel=0.2, abs=0.02)
    with edited(finished, *TWEAKS["K up"]):
        found = states(ours(finished, "status", *CONFIG))
    assert found["hybrid"]["probe"] == "missing 3/4"
    assert {found["hybrid"][name] for name in ("scores", "allocation", "training", "gpqa")} == {"stale"}
    assert found["lora"]["gpqa"] == found["hybrid"]["model"] == "done"


def _benchmarks(folder):
    return [path.read_text().splitlines()[1] for path in (folder / "results/benchmarks").rglob("*.tsv")]


def test_a_killed_job_has_failed_and_does_not_run(copy):
    """A training is started through Snakemake, seen to run, and killed; status never shows it as running after that."""
    ours(copy, "adopt", *CONFIG)
    shutil.rmtree(copy / "results/training/lora")
    environment = {**os.environ, "PYTHONPATH": str(copy / "workflow")}
    environment["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    policy = "results/training/lora/policy/manifest.json"  # asked for: what was made from it is there, so nothing needs it
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *CONFIG, "--", policy]
    main = subprocess.Popen(command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mark = copy / "results/.state/jobs/training/lora/policy.json"
    deadline = time.monotonic() + 120
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    pid = json.loads(mark.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)  # so small a training could end before status has looked at it
    said = ours(copy, "status", *CONFIG)
    assert states(said)["lora"]["training"] == "running"
    assert "running: results/training/lora/policy/manifest.json: on " in said
    assert "its job runs now" in ours(copy, "why", "results/training/lora/history.parquet", *CONFIG)
    os.kill(pid, signal.SIGKILL)
    assert main.wait(120) != 0
    said = ours(copy, "status", *CONFIG)
    assert states(said)["lora"]["training"] == "failed"
    assert "it was killed" in said
    snakemake(copy, "--", policy)
    snakemake(copy)
    assert set(states(ours(copy, "status", *CONFIG))["lora"].values()) == {"done", "-"}


def test_a_failed_job_says_why(copy):
    ours(copy, "adopt", *CONFIG)
    shutil.rmtree(copy / "results/evaluation/io/gpqa")
    with edited(copy, "workflow/hybrid_lora/evaluation/prompts.py", '"""\n', '"""\nraise ValueError("no such prompt")\n'):
        snakemake(copy, "--", "results/evaluation/io/gpqa/completions.parquet", check=False)
        said = ours(copy, "status", *CONFIG)
    assert states(said)["io"]["gpqa"].startswith("failed")
    assert "no such prompt" in said and "results/logs/evaluation/io.gpqa.completions.log" in said
