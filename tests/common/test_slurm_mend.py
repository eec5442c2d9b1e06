"""The Slurm executor asks a controller that does not answer again, and cancels all of its jobs."""

import importlib
import sys

import pytest

from hybrid_lora.common import slurm


@pytest.fixture
def executor(monkeypatch):
    module = importlib.import_module(slurm.EXECUTOR)
    monkeypatch.setattr(module, "get_min_job_age", module.get_min_job_age)  # put back at the end
    monkeypatch.setattr(module.Executor, "cancel_jobs", module.Executor.cancel_jobs)
    monkeypatch.setattr(slurm, "EVERY", 0.0)
    return module


def test_silence_is_not_taken_for_an_answer(executor, monkeypatch):
    answers = [None, None, 300, 400]
    executor.get_min_job_age = lambda: answers.pop(0)
    slurm.mend()
    slurm.mend()
    assert [executor.get_min_job_age(), executor.get_min_job_age()] == [300, 400]


def test_it_gives_up_in_the_end(executor, monkeypatch):
    asked = []
    monkeypatch.setattr(slurm, "TIMES", 3)
    executor.get_min_job_age = lambda: asked.append(1)
    slurm.mend()
    assert executor.get_min_job_age() is None
    assert len(asked) == 3


def test_the_executor_asks_by_this_name(executor):
    """What is mended is what check_active_jobs calls; a version that does otherwise needs another look."""
    names = executor.Executor.check_active_jobs.__code__.co_names
    assert "get_min_job_age" in names


def test_without_the_executor_nothing_happens(monkeypatch):
    monkeypatch.delitem(sys.modules, slurm.EXECUTOR, raising=False)
    slurm.mend()


def test_jobs_that_are_on_no_list_are_cancelled_too(executor, monkeypatch):
    ran = []
    monkeypatch.setattr(slurm.subprocess, "run", lambda command, **_: ran.append(command))
    slurm.mend()
    run = type("Run", (), {"run_uuid": "hybrid_lora_1", "_submitted_job_clusters": set(), "logger": None})()
    executor.Executor.cancel_jobs(run, [])
    assert ran == [["scancel", "--name=hybrid_lora_1"]]
