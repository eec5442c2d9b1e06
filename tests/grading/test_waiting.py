"""The limit on time: what computes is not stopped for what else the machine does, what sleeps is."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybrid_lora.grading import code, sandbox, waiting

BUSY = "import time\nwhile time.process_time() < 0.7: pass\nprint('done', flush=True)"


@pytest.mark.parametrize(
    ("used", "elapsed", "more"),
    [
        (0.05, 10, 0),  # it sleeps
        (10, 10, 0),  # it had what it was promised
        (10.5, 20, 0),
        (4, 10, 6),  # it had 40 % of a processor
        (9.999, 11, 0.02),
        (9.9, 39.5, 0.1),
        (9.99, 39.95, 0.02),  # PATIENCE is nearly over
        (9.5, 40, 0),
        (0, 10, 0),  # the kernel does not say
    ],
)
def test_what_is_still_due(used, elapsed, more):
    assert waiting.still_due(used, elapsed, 10) == pytest.approx(more, abs=1e-9)


@pytest.fixture(params=["bubblewrap", "limits"])
def mode(request):
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return sandbox.choose(request.param)


@pytest.fixture
def crowded():
    """Everything of this process's on one processor, which an endless loop shares."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    loop.kill()
    loop.wait()
    os.sched_setaffinity(0, before)


def test_a_program_that_others_hold_up_is_not_stopped(mode, crowded, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 30)  # whatever else this machine does
    result = sandbox.run(["-c", BUSY], b"", mode, 1)
    assert result.output == b"done\n" and result.wall_s > 1 and not result.timed_out


def test_a_program_that_computes_too_long_is_stopped(mode):
    began = time.monotonic()
    assert sandbox.run(["-c", "while True: pass"], b"", mode, 0.5).timed_out
    assert time.monotonic() - began < 0.5 * waiting.PATIENCE + 3


def test_the_clock_starts_with_the_first_output(mode):
    text = "import time\ntime.sleep(1.5)\nprint(1, flush=True)\ntime.sleep(60)"
    result = sandbox.run(["-c", text], b"", mode, 0.5, startup_s=20)
    assert result.output == b"1\n" and result.timed_out and 2 <= result.wall_s < 10
    assert sandbox.run(["-c", text], b"", mode, 0.5).output == b""


def test_an_endless_start_is_the_graders_failure(mode, monkeypatch):
    monkeypatch.setattr(code, "STARTUP_S", 0.3)
    monkeypatch.setattr(code, "_runner", lambda: "import time; time.sleep(60)")
    tests = {"prompt": "", "test": "def check(candidate):\n    assert candidate(1)\n", "entry_point": "f"}
    verdict = code.grade_many([code.job("def f(n): return n", tests)], mode, 0.3, 512)[0]
    assert (verdict.correct, verdict.error) == (None, "grader: sandbox did not start: timeout")


def test_processor_time_counts_descendants():
    text = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while waiting.processor_seconds(process.pid) < 0.5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert waiting.processor_seconds(process.pid) >= 0.5
        own = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11])
        assert own / os.sysconf("SC_CLK_TCK") < 0.3
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert waiting.processor_seconds(process.pid) == 0
