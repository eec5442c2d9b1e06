"""Hostile programs: none is graded correct, none hurts the grader or leaves anything behind."""
# ruff: noqa: E501  (programs)

import os
import shutil
import socket
import subprocess
import time

import pytest

from hybrid_lora.grading import code, sandbox

TESTS = {
    "prompt": "import sys, os\n",
    "test": "def check(candidate):\n    assert candidate(17) == 4711\n    assert candidate(18) == 4712\n",
    "entry_point": "Solution().run",
}
AT_IMPORT = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "kill itself": "os.kill(os.getpid(), 9)",
    "abort": "os.abort()",
    "forged lines": '[os.write(fd, b\'"started"\\n4711\\n4712\\n"done"\\n\') for fd in (1, 2)]\nos._exit(0)',
    "forged result on the channel": "for fd in range(3, 64):\n    try: os.write(fd, b'true\\ntrue\\n\"done\"\\n')\n    except OSError: pass\nos._exit(0)",
    "forged done": "for fd in range(3, 64):\n    try: os.write(fd, b'\"done\"\\n')\n    except OSError: pass\nos._exit(0)",
    "odd JSON": "for fd in range(3, 64):\n    try: os.write(fd, b'{\"set\": [[1]]}\\n' + b'[' * 100000 + b'\\n\"done\"\\n')\n    except OSError: pass\nos._exit(0)",
    "endless output": "while True:\n    for fd in range(1, 8):\n        try: os.write(fd, b'x' * 65536)\n        except OSError: pass",
    "endless loop": "while True: pass",
    "sleep": "import time; time.sleep(1000)",
    "memory bomb": "x = []\nwhile True: x.append(bytearray(10**7))",
    "memory in one piece": "x = bytearray(10**12)",
    "huge integer": "x = 9 ** 9 ** 9",
    "deep recursion": "sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1) + 1\nf(0)",
    "fork bomb": "while True:\n    try: os.fork()\n    except OSError: pass",
    "daemon": "if os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(1000)",
    "spawn": "import subprocess; subprocess.run(['sleep', '1000'])",
    "thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
    "raise limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "limits of the parent": "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "kill all": "os.kill(-1, 9)",
    "ignore signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "socket": "import socket; socket.create_connection(('127.0.0.1', PORT)).send(b'x')",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "fill the disk": "f = open('big', 'wb')\nwhile True: f.write(b'x' * 10**6)",
    "symlink": "os.symlink('/', 'root')\nopen('root/WRITE_MARK', 'w').write('x')",
    "read the tests": "for frame in sys._current_frames().values():\n    while frame:\n        assert '4711' not in repr(frame.f_locals), 'seen'\n        frame = frame.f_back\nraise SystemExit",
    "replace the interpreter": "os.execv('/bin/true', ['true'])",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "close everything": "os.closerange(0, 1000)",
    "stdin": "print(open(0).read())",
    "exit handler": "import atexit; atexit.register(lambda: os._exit(0))",
    "tracing": "sys.settrace(lambda *a: os._exit(0))\ndef f(): pass\nf()",
    "ptrace": "import ctypes\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0: raise SystemExit",
}
AT_CALL = {
    "always equal": "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    __hash__ = None\nreturn E()",
    "integer that is always equal": "class E(int):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\nreturn E(1)",
    "list that is always equal": "class E(list):\n    def __eq__(self, o): return True\nreturn E()",
    "class with a lying type": "class E:\n    __class__ = int\n    def __eq__(self, o): return True\nreturn E()",
    "patched builtins": "import builtins\nfor n in ('eval', 'exec', 'isinstance', 'all', 'len'): setattr(builtins, n, lambda *a: True)\nreturn True",
    "patched JSON": "import json\njson.dumps = lambda v: '\"done\"'\nreturn 1",
    "patched encoder": "import __main__\n__main__.encode = lambda v: True\n__main__.send = lambda c, v: os.write(c, b'\"done\"\\n')\nreturn 1",
    "exit in the middle": "os._exit(0)",
    "sys.exit in the middle": "sys.exit(0)",
    "candidate replaced": "globals()['candidate'] = lambda n: True\nreturn True",
    "endless value": "x = []\nx.append(x)\nreturn x",
    "deep value": "x = []\nfor _ in range(10**6): x = [x]\nreturn x",
    "endless list": "class ListNode: val = 1\nnode = ListNode()\nnode.next = node\nreturn node",
    "property that exits": "class E:\n    @property\n    def val(self): os._exit(0)\nreturn E()",
    "generator": "return (i for i in iter(int, 1))",
    "huge text": "return 'x' * 10**8",
    "assertion": "raise AssertionError",
    "debug off": "__debug__\nreturn None",
}


def program(name):
    if name in AT_IMPORT:
        return AT_IMPORT[name] + "\nclass Solution:\n    def run(self, n): return 0\n"
    inside = AT_CALL[name].replace("\n", "\n        ")
    return f"class Solution:\n    def run(self, n):\n        {inside}\n"


@pytest.fixture(params=["bubblewrap", "limits"])
def mode(request):
    if request.param == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return sandbox.choose(request.param)


@pytest.fixture(scope="module")
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("name", [*AT_IMPORT, *AT_CALL])
def test_contained_and_wrong(name, mode, port, tmp_path):
    text = program(name).replace("PORT", str(port.getsockname()[1])).replace("WRITE_MARK", str(tmp_path / "mark").lstrip("/"))
    began = time.monotonic()
    verdict = code.grade_many([code.job(text, TESTS)], mode, 0.7, 256)[0]
    assert verdict.correct is False, verdict
    assert time.monotonic() - began < 15
    with pytest.raises(BlockingIOError):
        port.accept()
    if mode == "bubblewrap":
        assert not (tmp_path / "mark").exists()


def test_a_cheat_that_knows_the_answer_in_one_test_only_is_wrong(mode):
    assert (
        code.grade_many([code.job(program("always equal").replace("return E()", "return 4711"), TESTS)], mode, 5, 256)[0].correct
        is False
    )


def test_nothing_is_left_running():
    """After all of the above: no child of ours but the pool's own."""
    time.sleep(0.3)
    shown = subprocess.run(["ps", "-o", "pid,ppid,args", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    assert "-X utf8" not in shown and "sleep 1000" not in shown
