"""Resumable state in results/.state/<stage>/<key>/, stamped with a hash of inputs, configuration and code.

Declared outputs are deleted by Snakemake before a job and on failure, so work in progress lives here. A stamp that
differs means that the state belongs to another computation: it is discarded, and the log says so.
"""

import os
import shutil
import sys
from pathlib import Path

from hybrid_lora.common import manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file, sha256_json, write_json


def open_state(folder, settings, inputs, code):
    """The folder for this computation's state as a Path, emptied first if it holds another computation's.

    folder: e.g. results/.state/training/my-run; inputs and code: paths whose contents belong to the stamp.
    """
    folder = Path(folder)
    stamp = {
        "settings": sha256_json(settings),
        "inputs": sha256_json([sha256_file(p) for p in inputs]),
        "code": sha256_json([sha256_file(p) for p in code]),
    }
    path = folder / "stamp.json"
    if path.exists():
        reason = _difference(path, stamp)
        if not reason:
            return folder
        print(f"{folder}: saved state is {reason}; starting anew", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)  # a network file system may keep a rest of what was removed
    write_json(path, stamp)
    return folder


def _difference(path, stamp):
    """What in the stamp at `path` is another than in `stamp`, in words; empty if they agree."""
    try:
        old = read_json(path)
        return " and ".join(f"of other {key}" for key in sorted(stamp) if old.get(key) != stamp[key])
    except (UserError, AttributeError):
        return "unreadable"


def published(folder, manifests, settings, inputs, code):
    """Whether an earlier process has published all and was killed after it had removed its state; said in the log.

    manifests: paths of those of all that the computation makes; settings, inputs ({name: path}) and code: as they tell.
    """
    shutil.rmtree(_gone(folder), ignore_errors=True)
    if Path(folder).exists() or not all(manifest.tells(path, settings, inputs, code) for path in manifests):
        return False
    print("all is published already, by a process that ended after that; nothing to do", flush=True)
    return True


def close_state(folder):
    """Remove the state of a computation whose declared outputs are written: all at once, so that no part of it is taken up."""
    gone = _gone(folder)
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _gone(folder):
    return Path(folder).with_name(f"{Path(folder).name}.gone")
