"""Atomic files: whatever is at its final path is complete, and a failed write leaves what was there before."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from hybrid_lora.common.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; on success it is renamed over `path`, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes 0600; results are shared within a group
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path, text):
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write `value` as indented JSON atomically. NaN and infinity are refused (ValueError): they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path):
    """Read a JSON file; UserError naming the file if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None


def check_writable(folder):
    """UserError with the reason where `folder` cannot be made or cannot take a file of a page: full, read-only, forbidden."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable.") as file:
            file.write(b" " * 4096)
            file.flush()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def sha256_file(path):
    """SHA-256 of a file's bytes, as 64 hex digits; UserError naming the file if it is missing."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


def sha256_json(value):
    """SHA-256 of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def remove_rests(*paths):
    """Remove what processes that were killed while they wrote `paths` have left beside them; nobody else may write these."""
    for path in map(Path, paths):
        for rest in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            shutil.rmtree(rest, ignore_errors=True) if rest.is_dir() else rest.unlink(missing_ok=True)


@contextlib.contextmanager
def directory_artifact(path, last="manifest.json"):
    """Yield a temporary folder whose files replace those of `path` at the end.

    `last` (the file that Snakemake tracks) is removed from `path` first and put there last, so a folder that holds it
    is complete. Files of an earlier version are deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_rests(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        path.mkdir(exist_ok=True)
        (path / last).unlink(missing_ok=True)
        for old in path.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for new in sorted(temporary.iterdir(), key=lambda p: p.name == last):
            os.replace(new, path / new.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
