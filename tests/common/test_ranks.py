"""How a command's processes end."""

import os
import subprocess
import sys

import pytest

# A thread of a library's that nobody stops: the interpreter waits for it.
ENDS = """
import atexit, threading, time
from hybrid_lora.common import ranks

threading.Thread(target=time.sleep, args=(60,), daemon={daemon}).start()
atexit.register(print, "closed")
print("done")
ranks.leave({status})
"""


@pytest.mark.parametrize("processes, daemon, status", [("2", False, 0), ("2", False, 143), ("1", True, 3), (None, True, 0)])
def test_a_process_leaves_with_its_status_and_all_it_printed(processes, daemon, status):
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    environment |= {"WORLD_SIZE": processes} if processes else {}
    command = [sys.executable, "-c", ENDS.format(daemon=daemon, status=status)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\nclosed\n", "")
