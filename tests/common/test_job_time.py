"""When a job ends: Slurm's variable, or what squeue says where Slurm is too old to set it.

A real Slurm's answer is in tests/slurm/test_cluster.py; here the program is one that prints what the real one was seen to.
"""

import pytest

from hybrid_lora.common.job_time import job_end


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A function that puts a program of that name first on the PATH; local time is UTC."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    def make(script):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "squeue").chmod(0o755)

    return make


def test_the_variable_comes_first(squeue, monkeypatch):
    squeue("echo 2026-11-26T15:00:00")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    assert job_end() == 1000.0


@pytest.mark.parametrize("told", ["soon", "nan", "inf", "-5", "0"])
def test_a_variable_that_is_no_time_is_not_heeded(told, squeue, monkeypatch, capfd):
    squeue("echo 2026-11-26T15:00:00")
    monkeypatch.setenv("SLURM_JOB_END_TIME", told)
    assert job_end() == 1795705200.0  # squeue's
    assert f"SLURM_JOB_END_TIME is '{told}', not a number of seconds: not heeded" in capfd.readouterr().err


def test_squeue_is_asked_for_this_job(squeue, monkeypatch, capfd):
    squeue('test "$*" = "--noheader --jobs=17 --format=%e" && echo 2026-11-26T15:00:00')
    assert job_end() == 1795705200.0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("said", ["N/A", "NONE", ""])
def test_a_job_without_a_limit(squeue, said):
    squeue(f"echo {said}")
    assert job_end() is None


def test_slurm_does_not_answer(squeue, capfd):
    squeue("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
    assert job_end() is None
    assert "squeue does not tell the end of job 17's time (slurm_load_jobs error: Invalid job id" in capfd.readouterr().err


def test_outside_of_slurm(squeue, monkeypatch):
    squeue("echo 2026-11-26T15:00:00")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert job_end() is None
