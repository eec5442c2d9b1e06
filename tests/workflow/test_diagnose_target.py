"""The target `diagnose` as a user asks for it: what would run, and a mistake said before any job."""

import re
import shutil

import pyarrow.parquet as pq
import pytest
from tests_workflow import copy_checkout, snakemake

from hybrid_lora.config.probing import SOURCES


def test_partitions_compute_nothing_twice_and_seeds_only_their_own(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    planned = snakemake(folder, "-n", "diagnose").stdout
    counts = {name: int(number) for name, number in re.findall(r"^([\w]+) +(\d+)$", planned, re.MULTILINE)}
    wanted = {"warmup": 2, "sensitivity": 4, "perturbation": 1, "scores": 13, "allocation": 3, "diagnose_model": 1}
    assert {name: counts[name] for name in wanted} == wanted
    assert not re.search(r"results/probe/tiny/default\+k", planned)


def test_too_few_rows_for_a_partition_is_said_before_any_job(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    config = folder / "config/tiny.yaml"
    config.write_text(config.read_text().replace("partitions: [2, 4]}}", "partitions: [2, 40]}}"))
    refused = snakemake(folder, "-p", "diagnose", check=False)
    line = "corpora.tiny.validation_rows is 16, report.diagnose.partitions 40 * batch_size 2 needs 80 rows"
    assert refused.returncode
    assert line in [text.strip() for text in refused.stdout.splitlines()]
    assert "Traceback" not in refused.stdout
    assert not (folder / "results/data").exists()
    assert snakemake(folder, "-n", "allocations").returncode == 0


@pytest.fixture(scope="module")
def diagnosed(finished, tmp_path_factory):
    """A copy of the finished tiny checkout, diagnosed: every probe, dump and criterion has run for real."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("diagnosed") / "checkout", symlinks=True)
    snakemake(folder, "-p", "diagnose")
    return folder / "results"


@pytest.mark.matrix
def test_every_criterion_has_been_computed(diagnosed):
    folder = diagnosed / "scores/tiny/default"
    measured = set(SOURCES) - {"inverted"}  # a control of allocation, not of agreement
    assert {path.stem for path in folder.glob("*.parquet")} == measured
    for criterion in measured:
        rows = pq.read_table(folder / f"{criterion}.parquet", partitioning=None).to_pylist()
        assert sorted(row["rank"] for row in rows) == list(range(1, 15))
        assert len({row["score"] for row in rows}) > 1, criterion
    for kind in ("warmup", "adalora", "autolora", "full-warmup"):
        history = pq.read_table(diagnosed / f"probe/tiny/default/{kind}/history.parquet", partitioning=None)
        assert history["step"].to_pylist() == [1, 2, 3, 4]
        assert not list((diagnosed / ".state").rglob("*.pt"))


@pytest.mark.matrix
def test_the_report_names_every_criterion(diagnosed):
    text = (diagnosed / "report/diagnose-tiny.md").read_text()
    for criterion in ("hybrid", "hybrid-4", "alpha", "adalora", "autolora", "lora-drop", "random"):
        assert f"| {criterion} " in text or f"| `{criterion}` " in text
    assert (diagnosed / "report/diagnose-tiny.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.matrix
def test_diagnosed_again_does_nothing(diagnosed):
    assert "Nothing to be done" in snakemake(diagnosed.parent, "-p", "diagnose").stdout
