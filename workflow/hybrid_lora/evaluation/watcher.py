"""What may not outlive us: processes we started and a temporary folder, ended even where we are killed and cannot do it.

vLLM's engine and workers do not notice that the process which started them was killed (kill -9, out of memory): they would
keep the GPU's memory from the job that goes on with the work. The watcher is a process of its own, this file run as a
script, that sees us gone and ends what is left.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psutil

INTERVAL_S = 0.5  # a process started in the last half second before the end may be missed


@contextlib.contextmanager
def watched(prefix):
    """Yield a temporary folder; it and all processes that this one starts end with this process, however it ends."""
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        command = [sys.executable, __file__, str(os.getpid()), folder]
        # A session of its own: what ends our process group leaves the watcher to its work.
        watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        with watcher:
            try:
                watcher.stdout.readline()  # nothing is started before it watches, however busy the machine
                yield folder
            finally:
                watcher.kill()


def main(parent, folder):
    """Wait until process `parent`, which started this one, is gone; kill its descendants and remove `folder`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("watching", flush=True)
    known = set()
    while os.getppid() == parent:
        with contextlib.suppress(psutil.NoSuchProcess):
            known = set(psutil.Process(parent).children(recursive=True))
        time.sleep(INTERVAL_S)
    left = known | {child for process in known for child in _children(process)}
    for process in left:
        if process.pid != os.getpid():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares the time of its start: never another process with the same number
    shutil.rmtree(folder, ignore_errors=True)


def _children(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
