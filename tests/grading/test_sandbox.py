"""The sandbox itself: modes, refusal, containment."""

import os
import shutil
import subprocess

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.grading import sandbox


def test_a_wrong_setting_is_named():
    with pytest.raises(UserError, match=r"grading\.sandbox.*bubblewrap, limits, auto"):
        sandbox.choose("docker")


@pytest.fixture
def without_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._bubblewrap_problem.cache_clear()
    yield tmp_path
    sandbox._bubblewrap_problem.cache_clear()


def test_missing_bubblewrap_is_refused_or_said(without_bubblewrap, capsys):
    with pytest.raises(UserError, match=r"grading\.sandbox: bubblewrap: bwrap is not installed.*limits \| auto") as error:
        sandbox.choose("bubblewrap")
    assert "\n" not in str(error.value)
    assert sandbox.choose("auto") == "limits"
    assert "weaker mode" in capsys.readouterr().err


def test_bubblewrap_that_does_not_work_is_refused(without_bubblewrap):
    broken = without_bubblewrap / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"does not work here .*No permissions"):
        sandbox.choose("bubblewrap")
    assert sandbox.choose("auto") == "limits"


@pytest.fixture(params=["bubblewrap", "limits"])
def mode(request):
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return sandbox.choose(request.param)


def test_output_status_and_input(mode):
    result = sandbox.run(["-c", "import sys; print(sys.stdin.read()[::-1]); sys.exit(3)"], b"abc", mode, 10)
    assert (result.status, result.output, result.timed_out) == (3, b"cba\n", False)


def test_wall_time(mode):
    result = sandbox.run(["-c", "import time; print(1, flush=True); time.sleep(60)"], b"", mode, 0.5)
    assert result.timed_out and result.status is None and result.output == b"1\n" and result.wall_s < 5


def test_a_closed_pipe_does_not_stop_the_clock(mode):
    result = sandbox.run(["-c", "import os, time; os.close(1); time.sleep(60)"], b"", mode, 0.5)
    assert result.timed_out and result.wall_s < 5


def test_endless_output_is_bounded(mode):
    result = sandbox.run(["-c", "while True: print('x' * 100000)"], b"", mode, 20, output_bytes=1 << 20)
    assert result.overflow and len(result.output) < 4 << 20


def test_bubblewrap_shows_no_files_and_lets_none_be_written(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    mode = sandbox.choose("bubblewrap")
    secret = tmp_path / "secret"
    secret.write_text("x")
    looked = [str(secret), os.getcwd(), os.path.expanduser("~/.ssh"), "/etc/passwd", "/proc/1", "/sys"]
    code = f"""
import os
print([path for path in {looked!r} if os.path.exists(path)], os.getcwd(), sorted(set(os.environ) - {{"LC_CTYPE"}}))
for path in ['/x', '/usr/x', '/dev/x', '/scratch/x']:
    try:
        open(path, 'w').write('1')
        print('wrote', path)
    except OSError:
        pass
"""
    result = sandbox.run(["-c", code], b"", mode, 20)
    assert result.output.decode().splitlines() == [
        "[] /scratch ['OPENBLAS_NUM_THREADS', 'PATH', 'PWD', 'PYTHONHASHSEED']",
        "wrote /scratch/x",
    ]


def test_no_process_is_left(mode):
    before = set(subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines())
    sandbox.run(["-c", "import time; MARK_OF_TEST = 1; time.sleep(60)"], b"", mode, 0.3)
    after = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in after if "MARK_OF_TEST" in line and line not in before]
