"""A training that is killed, stopped, short of disk or left with a damaged checkpoint ends as one that nobody disturbed.

A few kills each; `python tests/benchmarks/kill_training.py` makes as many as you like.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from killing import OBJECTIVES, SAVE_EVERY, Materials, Starter, differences, killed, redone, uninterrupted

from hybrid_lora.common import checkpoints

pytestmark = pytest.mark.matrix  # two minutes; in `make test`, test_train.py breaks trainings off within this process


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return Materials(tmp_path_factory.mktemp("materials"))


@pytest.fixture(scope="module")
def starter():
    one = Starter()
    yield one
    one.close()


@pytest.fixture(scope="module")
def whole(materials, starter, tmp_path_factory):
    """{objective: (folder, times)} of runs that nobody disturbed."""
    made = {}

    def get(objective):
        if objective not in made:
            folder = tmp_path_factory.mktemp(objective)
            made[objective] = folder, uninterrupted(starter, materials, objective, folder)
        return made[objective]

    return get


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_kill_9(objective, materials, starter, whole, tmp_path):
    folder, times = whole(objective)
    attempts = killed(starter, materials, objective, tmp_path, times, seed=1)
    assert len(attempts) > 1
    assert differences(folder, tmp_path) == []
    assert max(redone(attempts)) <= SAVE_EVERY


def stopped(starter, materials, out, log, step, number=signal.SIGTERM, env=()):
    """The Attempt of a command that is sent a signal after this step."""
    command = starter.start(materials.command("gspo", out), out / log, env)
    assert command.wait(lambda: command.step() >= step), command.text()
    return command.end(number)


def test_sigterm_saves_and_goes_on(materials, starter, whole, tmp_path):
    """Steps 5 and 9 lie inside windows of two steps: the completions of the window are in the checkpoint."""
    one = stopped(starter, materials, tmp_path, "log-1", 5)
    two = stopped(starter, materials, tmp_path, "log-2", 9)
    for attempt in (one, two):
        assert attempt.returncode == 128 + signal.SIGTERM
        line = attempt.log.splitlines()[-1]
        assert line.startswith("hybrid_lora: training r: stopped after step ")
        assert line.endswith("by SIGTERM; the state is saved, start it again to go on")
        assert "Traceback" not in attempt.log
    command = starter.start(materials.command("gspo", tmp_path), tmp_path / "log-3")
    three = command.end()
    assert three.returncode == 0
    assert redone([one, two, three]) == [0, 0, 0]
    assert differences(whole("gspo")[0], tmp_path) == []


def test_stops_before_the_job_ends(materials, starter, whole, tmp_path):
    for margin in (9, 10, 11, 11.5):  # a fast machine is done before a small one is reached
        out = tmp_path / str(margin)
        end = time.time() + whole("gspo")[1][0] + 12
        env = {"SLURM_JOB_END_TIME": str(int(end)), checkpoints.ENVIRONMENT: json.dumps({"stop_margin_s": margin})}
        attempt = stopped(starter, materials, out, "log-1", 1, None, env)
        if attempt.returncode:
            break
    assert attempt.returncode == os.EX_TEMPFAIL, attempt.log
    assert time.time() < end
    assert "by the end of the job's time in " in attempt.log.splitlines()[-1]
    assert starter.start(materials.command("gspo", out), out / "log-2").end().resumed == attempt.reached > 0
    assert differences(whole("gspo")[0], out) == []


def test_damaged_checkpoints_are_passed_over(materials, starter, whole, tmp_path):
    stopped(starter, materials, tmp_path, "log-1", 10, signal.SIGKILL)
    newest, before = (tmp_path / "state" / f"checkpoint-{step}" for step in reversed(checkpoints.steps(tmp_path / "state")))
    os.truncate(newest / "optimizer.pt", 1000)
    attempt = stopped(starter, materials, tmp_path, "log-2", int(before.name.removeprefix("checkpoint-")) + 1, signal.SIGKILL)
    assert f"{newest}: optimizer.pt has 1000 bytes where" in attempt.log
    assert "going back to the checkpoint before it" in attempt.log
    assert attempt.resumed == int(before.name.removeprefix("checkpoint-"))
    for folder in (tmp_path / "state").glob("checkpoint-*"):
        weights = folder / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    last = starter.start(materials.command("gspo", tmp_path), tmp_path / "log-3").end()
    assert "adapter_model.safetensors has changed since it was written" in last.log
    assert "no checkpoint can be used; starting anew" in last.log
    assert differences(whole("gspo")[0], tmp_path) == []


def test_lost_best_policy_is_trained_again(materials, starter, whole, tmp_path):
    stopped(starter, materials, tmp_path, "log-1", 10, signal.SIGKILL)
    for folder in (tmp_path / "state").glob("best-*"):
        shutil.rmtree(folder)
    last = starter.start(materials.command("gspo", tmp_path), tmp_path / "log-2").end()
    assert "its best policy, best-" in last.log
    assert differences(whole("gspo")[0], tmp_path) == []


SMALL = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m none "$0" && exec "$@"']


def test_full_disk(materials, whole, tmp_path):
    """On a file system of its own, of which all but half a checkpoint is taken while the run goes on."""
    probe = subprocess.run([*SMALL, str(tmp_path), "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no file system of its own for the test: {probe.stderr.strip()}")
    small = Starter([*SMALL, str(tmp_path)])
    out = tmp_path / "out"
    inside = type(tmp_path)(f"/proc/{small.process.pid}/root{out}")  # what the process sees there
    logs = materials.folder / "full-disk"
    try:
        command = small.start(materials.command("gspo", out), logs / "1")
        assert command.wait(lambda: command.step() >= 5)
        first = command.end(signal.SIGTERM)
        saved = inside / "state" / f"checkpoint-{first.reached}"
        size = sum(p.stat().st_size for p in saved.iterdir())
        free = shutil.disk_usage(inside).free
        (inside / "filler").write_bytes(b"0" * (free - size // 2))
        second = small.start(materials.command("gspo", out), logs / "2").end()
        assert second.returncode == 2
        line = second.log.splitlines()[-1]
        assert line.startswith("hybrid_lora: error: "), second.log
        assert "cannot be written (" in line
        assert line.endswith(f"the state of step {first.reached} is kept; make room and start again")
        assert "Traceback" not in second.log
        assert checkpoints.problem(saved) is None
        (inside / "filler").unlink()
        third = small.start(materials.command("gspo", out), logs / "3").end()
        assert third.returncode == 0
        assert third.resumed == first.reached
        assert differences(whole("gspo")[0], inside) == []
    finally:
        small.close()
