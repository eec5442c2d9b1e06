"""Two commands never make one file at the same time: waiting, dead holders, other machines, work that is already done."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybrid_lora.common import lease, manifest
from hybrid_lora.common.errors import UserError

OUT = "results/data/a.parquet"
HOLD = """
import sys, time
from hybrid_lora.common import lease
with lease.held([sys.argv[1]], ["make", "a"]) as finished:
    print("has", finished, time.time(), flush=True)
    time.sleep(float(sys.argv[2]))
    print("ends", time.time(), flush=True)
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(lease, "POLL", 0.05)


def holder(seconds=60.0):
    process = subprocess.Popen([sys.executable, "-c", HOLD, OUT, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("has")
    return process


def leases():
    return sorted(path.name for path in Path(lease.LEASES).rglob("*") if path.is_file())


def foreign(**changes):
    """A lease as a process on another machine leaves it."""
    path = Path(lease.LEASES, "data/a.parquet.1")
    path.parent.mkdir(parents=True)
    about = {
        "pid": 1,
        "machine": "another",
        "born": 1,
        "host": "node7",
        "job": None,
        "started": time.time(),
        "command": ["make", "a"],
    }
    path.write_text(json.dumps({**about, **changes}))
    return path


def slurm(monkeypatch, tmp_path, answer, status=0):
    """A squeue that gives this answer: what it is asked is the real command, what is tested is how its words are read."""
    tool = tmp_path / "bin/squeue"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{answer}' >&{2 if status else 1}\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_the_second_waits_for_the_first(capfd):
    process = holder(1.0)
    with lease.held([OUT], ["make", "b"]) as finished:
        began = time.time()
    said = process.communicate()[0].split()
    assert began >= float(said[said.index("ends") + 1])
    assert finished is False
    assert f"{OUT}: is being made by process {process.pid}" in capfd.readouterr().err
    assert leases() == []


def test_many_at_once_take_turns():
    command = [sys.executable, "-c", HOLD, OUT, "0.05"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    times = sorted((float(words[2]), float(words[words.index("ends") + 1])) for words in said)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))
    assert leases() == []


def test_a_killed_holder_is_not_waited_for():
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert leases() == ["a.parquet.1"]
    with lease.held([OUT], ["make", "a"]) as finished:
        assert finished is False
        assert leases() == ["a.parquet.2"]
    assert leases() == []


def test_what_the_first_finished_is_not_made_again(tmp_path):
    source = Path("source.txt")
    source.write_text("1")

    def wait(change, command):
        process = holder(0.5)
        Path(OUT).parent.mkdir(parents=True, exist_ok=True)
        Path(OUT).write_text("done")
        manifest.write_beside(OUT, "x", {}, {"source": source}, [lease.__file__])
        if change:
            source.write_text(source.read_text() + "1")
        with lease.held([OUT], command) as finished:
            process.communicate()
            return finished

    assert wait(False, ["make", "a"]) is True
    assert wait(False, ["make", "b"]) is False, "another command line"
    assert wait(True, ["make", "a"]) is False, "an input that changed since"


def test_nobody_waited_for_means_work_to_do(tmp_path):
    Path(OUT).parent.mkdir(parents=True)
    Path(OUT).write_text("done")
    manifest.write_beside(OUT, "x", {}, {}, [])
    with lease.held([OUT], ["make", "a"]) as finished:
        assert finished is False


@pytest.mark.parametrize(
    ("answer", "status", "lives"),
    [
        ("RUNNING|2020-01-01T00:00:00", 0, True),
        ("RUNNING|2099-01-01T00:00:00", 0, False),  # started anew after the lease was made
        ("PENDING|N/A", 0, False),
        ("COMPLETED|2020-01-01T00:00:00", 0, False),
        ("", 0, False),
        ("slurm_load_jobs error: Invalid job id specified", 1, False),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1, True),
    ],
)
def test_slurm_tells_of_a_job_on_another_machine(monkeypatch, tmp_path, answer, status, lives):
    slurm(monkeypatch, tmp_path, answer, status)
    path = foreign(job="12")
    about = {**json.loads(path.read_text()), "seen": path.stat().st_mtime}
    assert lease._lives(about, {"machine": "here", "job": "13"}, {}) is lives


def test_a_requeued_job_does_not_wait_for_itself(monkeypatch):
    foreign(job="12")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with lease.held([OUT], ["make", "a"]):
        assert leases() == ["a.parquet.2"]


def test_a_silent_lease_of_another_machine_ends(monkeypatch):
    monkeypatch.setattr(lease, "SILENT", 0.5)
    path = foreign()
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # as long as it is touched it counts
        about = {**json.loads(path.read_text()), "seen": path.stat().st_mtime}
        watch = {}
        assert lease._lives(about, {"machine": "here", "job": None}, watch)
        os.utime(path)
        time.sleep(0.1)
    began = time.monotonic()
    with lease.held([OUT], ["make", "a"]):
        assert time.monotonic() - began >= 0.5


def test_files_elsewhere_need_no_lease(tmp_path):
    with lease.held([tmp_path / "elsewhere", "other/file"], ["make", "a"]) as finished:
        assert finished is False
        assert leases() == []


def test_a_folder_that_cannot_be_written_is_named():
    Path("results").write_text("not a folder")
    with pytest.raises(UserError, match=r"results/\.state/leases/data: cannot be written"), lease.held([OUT], ["make", "a"]):
        pass
