"""One command at a time makes a file below results/: whoever comes second waits for the first, wherever that one runs.

A job of a cluster outlives the Snakemake that sent it. Started again, Snakemake knows nothing of the job and sends a second
one for the same file. A command therefore holds `results/.state/leases/<file>.<number>` while it runs. The number grows when
a lease is taken over from a command that died; a lease is made by link(2), which one process alone can do, on NFS too.

Whether the holder lives is seen by its process (same machine), told by Slurm (the state of its job), or, where neither can
say, by a lease that is not touched for ten minutes.
"""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from hybrid_lora.common import alive
from hybrid_lora.common.code import ROOT
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file

LEASES = "results/.state/leases"
POLL = 1.0  # seconds between looks at a lease that another process holds
SILENT = 600.0  # seconds without a touch after which a holder that neither /proc nor Slurm knows counts as dead
RUNS = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "SIGNALING", "STAGE_OUT")


@contextlib.contextmanager
def held(outputs, command):
    """Hold those of `outputs` that lie below results/ while the body runs; waits for whoever holds one now.

    command: the command line, a list of texts. Yields True where the one we waited for ran the same command and finished
    it with today's inputs and code, so that nothing is left to do; else False. UserError where leases cannot be written.
    """
    places = sorted(os.path.relpath(path) for path in outputs)
    places = [place for place in places if place.split(os.sep)[0] == "results"]
    mine = {**alive.process(), "host": platform.node(), "job": os.environ.get("SLURM_JOB_ID"), "started": time.time()}
    mine["command"] = list(command)
    over, paths, others = threading.Event(), [], []
    try:
        for place in places:  # sorted: two commands never wait for one another
            path, before = _take(place, mine)
            paths.append(path)
            others += before
        threading.Thread(target=alive.beat, args=(paths, over), daemon=True).start()
        yield bool(others) and all(other == mine["command"] for other in others) and all(map(_finished, places))
    finally:
        over.set()
        for path in paths:
            path.unlink(missing_ok=True)


def _take(place, mine):
    """(path of our lease of one file, command lines of the holders that we waited for)."""
    waited, watch = [], {}
    while True:
        number, holder = _newest(place)
        if holder is None or not _lives(holder, mine, watch):
            path = _path(place, number + 1)
            if _link(path, mine):
                if _newest(place)[0] == number + 1:
                    _forget(place, number)
                    return path, waited
                path.unlink()  # a listing may miss a file that was made while it was read
            continue
        if not waited or waited[-1] != holder["command"]:
            waited.append(holder["command"])
            print(f"{place}: is being made by {_name(holder)}; waiting for it to end", file=sys.stderr, flush=True)
        time.sleep(POLL)


def _path(place, number):
    return Path(LEASES, *Path(place).parts[1:-1], f"{Path(place).name}.{number}")


def _numbers(place):
    folder, name = _path(place, 0).parent, Path(place).name
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = [re.fullmatch(rf"{re.escape(name)}\.(\d+)", entry) for entry in os.listdir(folder)]
        return sorted(int(match[1]) for match in found if match)
    return []


def _newest(place):
    """(number, holder) of the newest lease of a file; (0, None) where there is none, holder None where it just ended."""
    numbers = _numbers(place)
    if not numbers:
        return 0, None
    path = _path(place, numbers[-1])
    try:
        return numbers[-1], {**read_json(path), "seen": path.stat().st_mtime}
    except (OSError, UserError):
        return (0, None) if not path.exists() else (numbers[-1], None)


def _link(path, mine):
    """Make the lease `path`, complete at once; False where another process was first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".lease.")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(mine, file)
            os.chmod(temporary, 0o644)
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror})") from None
    return True


def _forget(place, number):
    """Remove leases of the dead, all below ours."""
    for old in _numbers(place):
        if old <= number:
            _path(place, old).unlink(missing_ok=True)


def _name(holder):
    job = f"Slurm job {holder['job']}, " if holder["job"] else ""
    return f"{job}process {holder['pid']} on {holder['host']}"


def _lives(holder, mine, watch):
    """Does the process that holds a lease still run? watch: {last touch: when we saw it first}, kept between calls."""
    if holder["machine"] is not None and holder["machine"] == mine["machine"]:
        return alive.runs(holder)
    if holder["job"]:
        if holder["job"] == mine["job"]:
            return False  # Slurm started our own job again, on another machine
        told = _slurm_says(holder)
        if told is not None:
            return told
    return time.monotonic() - watch.setdefault(holder["seen"], time.monotonic()) < SILENT


def _slurm_says(holder):
    """Whether the start of the Slurm job that the holder belongs to still runs; None where Slurm does not answer."""
    command = ["squeue", "--noheader", f"--jobs={holder['job']}", "--states=all", "--format=%T|%S"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None
    state, _, began = done.stdout.strip().partition("|")
    if state not in RUNS:
        return False
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(began).timestamp() <= holder["started"] + 5  # later: it was requeued since
    return True


def _finished(place):
    """Is an output there, made from what inputs and code are now?"""
    path = Path(place)
    manifest = path / "manifest.json" if path.is_dir() else path.with_name(f"{path.name}.manifest.json")
    try:
        about = read_json(manifest)
        inputs = {name: digest for paths in about["inputs"].values() for name, digest in paths.items()}
        code = {str(ROOT / name): digest for name, digest in about["code"].items()}
        made = [path / name if path.is_dir() else path.with_name(name) for name in about["outputs"]]
        return all(sha256_file(name) == digest for name, digest in {**inputs, **code}.items()) and all(p.exists() for p in made)
    except (UserError, KeyError, OSError):
        return False
