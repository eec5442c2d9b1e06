"""Signs of life of a running command: who makes which file, since when, and how it ended if it did not succeed.

A command that makes files below results/ keeps `results/.state/jobs/<file>.json` while it runs and touches it every few
seconds. It is removed on success. A command that fails says so in it; one that is killed cannot, and is known by its process
(on the same machine) or by the age of the file (elsewhere), so nothing killed looks like running for long.
"""

import contextlib
import os
import platform
import threading
import time
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json

JOBS = "results/.state/jobs"
EVERY = 10.0  # seconds between touches
SILENT = 120.0  # seconds without a touch after which a process on another machine counts as gone


def mark(output):
    """The file that tells of a command making `output`, which lies below results/; a folder may be given by its manifest."""
    place = Path(output)
    place = place.parent if place.name == "manifest.json" else place
    return Path(JOBS, *place.parts[1:-1], f"{place.name}.json")


@contextlib.contextmanager
def shown(outputs):
    """Show while the body runs that it makes `outputs`; where nothing can be written, run it all the same."""
    places = [os.path.relpath(path) for path in outputs]
    paths = [mark(place) for place in places if place.split(os.sep)[0] == "results"]
    about = {"state": "running", "host": platform.node(), "started": time.time(), **process()}
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, about)
    except OSError:
        paths = []
    over = threading.Event()
    threading.Thread(target=beat, args=(paths, over), daemon=True).start()
    try:
        yield
    except BaseException as error:
        said = str(error).strip().split("\n")[0] or type(error).__name__
        _end(paths, {**about, "state": "failed", "ended": time.time(), "error": said})
        raise
    else:
        _end(paths, None)
    finally:
        over.set()


def process():
    """What tells this process from all others: {pid, machine, born}, as `runs` needs it."""
    return {"pid": os.getpid(), "machine": _machine(), "born": _born(os.getpid())}


def runs(about):
    """Does the process described by `process()` on this machine still run?"""
    return _born(about["pid"]) == about["born"] is not None


def beat(paths, over):
    """Touch the files every few seconds until the event `over` is set."""
    while not over.wait(EVERY):
        for path in paths:
            with contextlib.suppress(OSError):
                os.utime(path)


def _end(paths, about):
    for path in paths:
        with contextlib.suppress(OSError):
            if about is None:
                path.unlink()
            else:
                write_json(path, about)


def read(path):
    """{state: running | failed, started, host, error (failed), seen: time of the last sign} of one mark, None without one."""
    try:
        about = {**read_json(path), "seen": Path(path).stat().st_mtime}
    except (OSError, UserError):  # none, or gone meanwhile
        return None
    if about["state"] == "running" and not _lives(about):
        about |= {"state": "failed", "error": "it was killed, or its machine went down"}
    return about


def _lives(about):
    if about["machine"] is None or about["machine"] != _machine():
        return time.time() - about["seen"] < SILENT
    return runs(about)


def _machine():
    """Names this start of this machine, and the processes that can be seen from here; None where /proc does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid):
    """When a process started, in clock ticks since the machine did; None where there is no such process."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after[0] == "Z" else int(after[19])
