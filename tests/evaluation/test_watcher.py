"""Processes and files that must not outlive the one that is killed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hybrid_lora.evaluation.watcher import watched

# Starts a process in a session of its own, as vLLM's engine could be, which has a child; says who they are, and waits.
PROGRAM = """
import subprocess, sys, time
from hybrid_lora.evaluation.watcher import watched
with watched("merged-") as folder:
    open(folder + "/weights", "w").close()
    child = "import subprocess; subprocess.run(['sleep', '1000'])"
    process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    print(process.pid, folder, flush=True)
    time.sleep({wait})
    process.terminate()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_descendants_end_with_a_killed_process(tmp_path, number):
    program = PROGRAM.format(wait=1000)
    ours = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        pid, folder = ours.stdout.readline().split()
        assert folder.startswith(str(tmp_path))
        started = {psutil.Process(int(pid))}
        while len(started) < 2:
            started |= set(psutil.Process(int(pid)).children())
        time.sleep(1.5)  # more than the interval at which the watcher looks
        assert list(tmp_path.glob("merged-*/weights"))
        ours.send_signal(number)
        ours.wait(20)
        assert psutil.wait_procs(started, timeout=20)[1] == []
    finally:
        ours.kill()
    deadline = time.monotonic() + 20
    while list(tmp_path.glob("merged-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.glob("merged-*"))


def test_watcher_and_folder_are_gone_afterwards(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(wait=0)], capture_output=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("merged-*"))
    watchers = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not watchers


def test_it_watches_before_anything_can_be_started():
    with watched("merged-") as folder:
        (watcher,) = [process for process in psutil.Process().children() if folder in process.cmdline()]
        watcher.terminate()  # what it does not heed once it watches
        with pytest.raises(psutil.TimeoutExpired):
            watcher.wait(0.5)
