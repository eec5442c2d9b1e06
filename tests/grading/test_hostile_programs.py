"""Hostile programs: none is graded correct, none hurts the grader or leaves anything behind.

In `limits`, programs of FILES are contained where the kernel has Landlock, else the mode does not promise it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import hostile_tricks
import pytest
from hostile_programs import AT_CALL, AT_IMPORT, FILES, REACHES, running

from hybrid_lora.grading import code, landlock, sandbox

TESTS = {
    "prompt": "import sys, os\n",
    "test": "def check(candidate):\n    assert candidate(17) == 4711\n    assert candidate(18) == 4712\n",
    "entry_point": "Solution().run",
}
AT_IMPORT |= hostile_tricks.AT_IMPORT | hostile_tricks.KNOWING
AT_CALL |= hostile_tricks.AT_CALL
REACHES |= hostile_tricks.REACHES
NAMES = [*AT_IMPORT, *AT_CALL, *REACHES]
TIMEOUT_S, MEMORY_MB, TOGETHER = 2, 256, 4
RIGHT = "class Solution:\n    def run(self, n): return n + 4694\n"
# where the kind of error is the point; the others may end in several ways
KINDS = {
    "memory bomb": "memory",
    "memory in one piece": "memory",
    "endless loop": "timeout",
    "ignore signals": "timeout",
    "named pipe": "timeout",
    "os._exit": "exit",
    "exit in the middle": "exit: test 1 of 2",
    "sys.exit in the middle": "exit: test 1 of 2",
    "always equal": "wrong-answer: test 1 of 2",
    "integer that is always equal": "wrong-answer: test 1 of 2",
    "calls replaced": "exit: test 2 of 2",
    "colliding keys on the channel": "output",
    "slow": "timeout: test 1 of 2",
    "forged tree of objects": "output",
    "right and then hanging": "timeout: test 2 of 2",
    "right and then crashing": "exit: test 2 of 2",
    "what is expected, in all objects": "exception: LookupError",
}


def program(name, folder, port):
    """The program's text, with the places it looks at filled in."""
    if name in AT_IMPORT:
        text = AT_IMPORT[name] + "\nclass Solution:\n    def run(self, n): return 0\n"
    else:
        inside = (AT_CALL | REACHES)[name].replace("\n", "\n        ")
        text = f"class Solution:\n    def run(self, n):\n        {inside}\n"
    text = text.replace("WRITE_MARK", str(folder / "mark").lstrip("/")).replace("MARK", str(folder / "mark"))
    text = text.replace("SECRET", str(folder / "secret")).replace("PORT", str(port))
    return text.replace("HOME", str(Path(code.__file__).parent))


class Outcome:
    """What all the programs did in one mode, run several at a time."""

    def __init__(self, mode, folder, scratch):
        self.folder, self.token = folder, uuid.uuid4().hex
        (folder / "secret").write_text("4711 4712\n")
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
            server.setblocking(False)
            patch.setattr(tempfile, "tempdir", str(scratch))
            patch.setenv("HYBRID_SECRET", "x")
            patch.setattr(sandbox, "ENVIRONMENT", sandbox.ENVIRONMENT | {"TOKEN": self.token})
            sandbox._bubblewrap.cache_clear()
            jobs = [code.job(program(name, folder, server.getsockname()[1]), TESTS) for name in NAMES]
            began = time.monotonic()
            self.verdicts = dict(zip(NAMES, code.grade_many(jobs, mode, TIMEOUT_S, MEMORY_MB, TOGETHER)))
            self.wall_s = time.monotonic() - began
            self.connected = connected(server)
        sandbox._bubblewrap.cache_clear()
        self.left = [path.name for path in scratch.iterdir() if "libraries" not in path.name]


def connected(server):
    try:
        server.accept()
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="module", params=["bubblewrap", "limits"])
def mode(request):
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return sandbox.choose(request.param)


@pytest.fixture(scope="module")
def outcome(mode, tmp_path_factory):
    return Outcome(mode, tmp_path_factory.mktemp("outside"), tmp_path_factory.mktemp("scratch"))


def test_there_are_enough():
    kinds = (AT_IMPORT, AT_CALL, REACHES)
    assert len(NAMES) == len(set(NAMES)) == sum(map(len, kinds)) >= 200


@pytest.mark.parametrize("name", NAMES)
def test_contained_and_wrong(name, mode, outcome):
    if name in FILES and mode == "limits" and not landlock.version():
        pytest.skip("this kernel has no Landlock: the mode does not promise it")
    verdict = outcome.verdicts[name]
    assert verdict.correct is False, verdict.error
    assert verdict.error.startswith(KINDS.get(name, ""))


def test_nothing_is_left_running(mode, outcome):
    deadline = time.monotonic() + 5
    while (found := running(outcome.token)) and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel takes down a name space after its first process
    assert not found
    assert not outcome.left
    assert not outcome.connected
    assert not any(Path(folder, "hybrid-mark").exists() for folder in ("/tmp", "/dev/shm"))
    if mode == "bubblewrap" or landlock.version():
        assert sorted(path.name for path in outcome.folder.iterdir()) == ["secret"]
        assert (outcome.folder / "secret").read_text() == "4711 4712\n" and (outcome.folder / "secret").stat().st_mtime > 1


def test_a_right_program_is_right_after_all_that(mode, outcome):
    assert code.grade_many([code.job(RIGHT, TESTS)], mode, 20, MEMORY_MB)[0].correct is True
    assert outcome.wall_s < 300


HARMLESS = ["file with the answers", "the grader's files", "writing outside", "TCP", "process", "file in memory", "priority"]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_reaches_out_would_be_right_where_nothing_holds_it(name, tmp_path):
    (tmp_path / "secret").write_text("4711 4712\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = program(name, tmp_path, server.getsockname()[1])
        text = f"{TESTS['prompt']}{text}print(Solution().run(17), Solution().run(18))"
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "4711 4712\n", done.stderr


def test_a_leftover_would_be_seen():
    token = uuid.uuid4().hex
    process = subprocess.Popen(["sleep", "60"], env=os.environ | {"TOKEN": token})
    try:
        deadline = time.monotonic() + 5
        while not running(token) and time.monotonic() < deadline:
            time.sleep(0.01)  # its environment is empty for a moment while it starts
        assert len(running(token)) == 1
    finally:
        process.kill()
        process.wait()


def test_a_cheat_that_knows_the_answer_in_one_test_only_is_wrong(mode, tmp_path):
    text = program("always equal", tmp_path, 0).replace("return E()", "return 4711")
    assert code.grade_many([code.job(text, TESTS)], mode, 5, MEMORY_MB)[0].error == "wrong-answer: test 2 of 2"
