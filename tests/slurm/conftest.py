"""Clusters, and an undisturbed run to compare with. One cluster at a time: each module starts the one that it needs."""

import contextlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "workflow")]

from cluster import Cluster  # noqa: E402
from machine import Unavailable, install  # noqa: E402
from pipelines import clone, run_locally  # noqa: E402


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cluster")


@contextlib.contextmanager
def skipped_without_slurm():
    """Skip, with the reason, where Slurm cannot be run."""
    try:
        yield
    except Unavailable as reason:
        pytest.skip(f"no Slurm: {reason}")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """results/ of the smallest configuration, run on this machine without a cluster; not where nothing could be compared."""
    with skipped_without_slurm():
        install(accounting=True)
    return run_locally(clone(tmp_path_factory.mktemp("local") / "checkout"))


def started(folder, **options):
    cluster = Cluster(folder)
    with skipped_without_slurm():
        cluster.up(**options)
    return cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster without slurmdbd."""
    cluster = started(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def accounting_cluster(tmp_path_factory):
    """A cluster with slurmdbd."""
    cluster = started(tmp_path_factory.mktemp("slurmdbd"), accounting=True)
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster of two nodes, without slurmdbd."""
    cluster = started(tmp_path_factory.mktemp("nodes"), nodes=2)
    yield cluster
    cluster.down()
