"""Signs of life: running, failed with a reason, killed, on another machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hybrid_lora.common import alive
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json

OUT = "results/training/a/policy"
PROGRAM = (
    f"import time; from hybrid_lora.common import alive\nwith alive.shown(['{OUT}']): print('up', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_shown_while_it_runs_and_gone_after():
    with alive.shown([OUT, "/elsewhere/file"]):
        about = alive.read(alive.mark(f"{OUT}/manifest.json"))
        assert about["state"] == "running"
        assert abs(about["started"] - time.time()) < 5
    assert alive.read(alive.mark(OUT)) is None


def test_a_failure_leaves_its_reason():
    with pytest.raises(UserError), alive.shown([OUT]):
        raise UserError("x.yaml: no such file\nmore")
    about = alive.read(alive.mark(OUT))
    assert (about["state"], about["error"]) == ("failed", "x.yaml: no such file")


def test_a_killed_process_does_not_run():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    assert alive.read(alive.mark(OUT))["state"] == "running"
    process.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # a zombie until its parent looks: dead all the same
    assert alive.read(alive.mark(OUT))["state"] == "failed"
    process.wait()
    about = alive.read(alive.mark(OUT))
    assert about["state"] == "failed" and "killed" in about["error"]


def test_another_machine_is_judged_by_its_last_sign():
    with alive.shown([OUT]):
        about = read_json(alive.mark(OUT))
        write_json(alive.mark(OUT), {**about, "machine": "another"})
        assert alive.read(alive.mark(OUT))["state"] == "running"
        os.utime(alive.mark(OUT), (0, time.time() - 2 * alive.SILENT))
        assert alive.read(alive.mark(OUT))["state"] == "failed"


def test_a_reused_process_number_does_not_count():
    with alive.shown([OUT]):
        write_json(alive.mark(OUT), {**read_json(alive.mark(OUT)), "born": 1})
        assert alive.read(alive.mark(OUT))["state"] == "failed"


def test_signs_come_again_and_again(monkeypatch):
    monkeypatch.setattr(alive, "EVERY", 0.05)
    with alive.shown([OUT]):
        os.utime(alive.mark(OUT), (0, 0))
        time.sleep(0.5)
        assert alive.read(alive.mark(OUT))["seen"] > 0


def test_nothing_is_written_where_nothing_can_be(monkeypatch):
    monkeypatch.setattr(alive, "write_json", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    with alive.shown([OUT]):
        pass
