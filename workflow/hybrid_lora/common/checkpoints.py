"""Checkpoints that can be trusted: whole or not there, a hash of every file, and never more of them than asked for.

A checkpoint is a folder `checkpoint-{step}` of a computation's state folder. It is written as `.saving/checkpoint-{step}`;
then `files.json` with the size and SHA-256 of every file is added, all is flushed to the disk, and the folder is moved to its
place. Only then are older ones removed. So a process may be killed, or the disk may be full, at any moment: what was there
before still is. One that cannot be read as it was written is passed over for the one before it, and the log says so.
"""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file, write_json

ENVIRONMENT = "HYBRID_LORA_CHECKPOINTS"
DEFAULTS = {"keep": 2, "stop_margin_s": 30}
MARK = "files.json"
SAVING = ".saving"
PREFIX = "checkpoint-"


def options():
    """The configuration's `checkpoints`; it reaches jobs as an environment variable, as it changes no result."""
    return DEFAULTS | json.loads(os.environ.get(ENVIRONMENT) or "{}")


def size_bytes(trainable):
    """Disk use of one checkpoint: float32 weights and AdamW's two moments of `trainable` parameters (the rest is small)."""
    return 12 * trainable


def disk_bytes(trainable, keep):
    """Most that a training's state takes: `keep` checkpoints, the one being written, and the best policy of each.

    The best policies are float32, too. Once a run is published its state is removed.
    """
    return (keep + 1) * (size_bytes(trainable) + 4 * trainable)


def prepare(work, name):
    """An empty folder to write `work/name` in, as a Path; what an interrupted save has left is removed."""
    folder = Path(work) / SAVING / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit(folder):
    """Mark what was written in a folder of `prepare`, flush it, and move it to its place, which is returned."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files}
    for path in files:
        _flush(path)
    write_json(folder / MARK, listed)
    _flush(folder / MARK)
    for path in [path for path in folder.rglob("*") if path.is_dir()] + [folder]:
        _flush(path)
    target = folder.parent.parent / folder.name
    shutil.rmtree(target, ignore_errors=True)
    os.replace(folder, target)
    _flush(target.parent)
    return target


@contextlib.contextmanager
def saving(work, name):
    """Yield a folder whose files become `work/name` at the end; after any failure `work` is as it was before."""
    with guarded(work, name):
        folder = prepare(work, name)
        yield folder
        commit(folder)


@contextlib.contextmanager
def guarded(work, name):
    """UserError, in one line, if the block cannot write `work/name` (a full disk, most of all); its rest is removed."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(Path(work) / SAVING / name, ignore_errors=True)
        if (reason := _cause(error, work)) is None:
            raise
        last = steps(work)
        kept = f"the state of step {last[-1]} is kept" if last else "there is no earlier state"
        raise UserError(f"{Path(work) / name}: cannot be written ({reason}); {kept}; make room and start again") from error


def _cause(error, work):
    """Why a file could not be written, None if that is not what happened; torch and safetensors have errors of their own."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if failures := getattr(error, "failures", None):  # torch's CheckpointException: {process: (error, its traceback)}
        return _cause(next(iter(failures.values()))[0], work)
    text = str(error).splitlines()[0] if str(error) else ""
    writers = ("PytorchStreamWriter", "iostream", "os error", "I/O error", "unexpected pos", "file write failed")
    if isinstance(error, Exception) and any(word in text for word in writers):
        free = shutil.disk_usage(work).free
        return f"{text}; {free / 2**20:.0f} MiB free"
    return None


def remove_others(work, step, keep):
    """After a checkpoint at `step`: keep it and the `keep` - 1 before it. Later ones are of a future that was given up."""
    left = [other for other in steps(work) if other <= step][-keep:]
    for other in steps(work):
        if other not in left:
            shutil.rmtree(Path(work) / f"{PREFIX}{other}", ignore_errors=True)


def steps(work):
    """Steps of the checkpoints in `work`, whether or not they can be read, in rising order."""
    found = [path.name.removeprefix(PREFIX) for path in Path(work).glob(f"{PREFIX}*")]
    return sorted(int(step) for step in found if step.isdecimal())


def newest(work, what, also=lambda folder: None):
    """The newest checkpoint that is as it was written, as a Path, or None; those passed over are named in the log.

    what: is resumed, in words; also(folder): a further reason why a checkpoint cannot be used, or None.
    """
    shutil.rmtree(Path(work) / SAVING, ignore_errors=True)
    passed = False
    for step in reversed(steps(work)):
        folder = Path(work) / f"{PREFIX}{step}"
        reason = problem(folder) or also(folder)
        if reason is None:
            print(f"{what}: resuming after step {step}", flush=True)
            return folder
        passed = True
        print(f"{folder}: {reason}; going back to the checkpoint before it", file=sys.stderr, flush=True)
    if passed:
        print(f"{work}: no checkpoint can be used; starting anew", file=sys.stderr, flush=True)
    return None


def problem(folder):
    """What is wrong with a folder that `commit` made, in words, or None."""
    try:
        listed = read_json(folder / MARK)
        if not listed:
            return f"{MARK} lists no file"
        for name, expected in listed.items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes where {expected['bytes']} were written"
            if sha256_file(folder / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except (UserError, OSError, AttributeError, KeyError, TypeError) as error:
        return f"unreadable ({str(error).splitlines()[0]})"
    return None


def _flush(path):
    """Have the kernel write a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
