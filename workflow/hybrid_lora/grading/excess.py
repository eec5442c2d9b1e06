"""What a program may have at a time and no resource limit bounds: threads (RLIMIT_NPROC exempts root), files, bytes in them.

Looked at from outside, a few times a second, so a program may be a little over for a moment. Each costs the kernel memory, or
the disk space, that other jobs need; the solution of a problem needs none of them.
"""

import contextlib
import os
from pathlib import Path

THREADS, FILES, BYTES = 256, 2_000, 64 << 20
INTERVAL_S = 0.2


def found(pid, folder):
    """`threads` or `files`, whichever process `pid` with its descendants has too many of; None if neither.

    folder: its scratch folder, None where it has its own in memory.
    """
    members = family(pid)
    if sum(map(_threads, members)) > THREADS:
        return "threads"
    over = _full(folder) if folder else any(map(_full_inside, members[-1:]))
    return "files" if over else None


def family(pid):
    """A process and its living descendants, innermost last; [pid] where the kernel does not say."""
    members = [pid]
    for member in members:
        with contextlib.suppress(OSError, ValueError):  # ended
            members += map(int, Path(f"/proc/{member}/task/{member}/children").read_text().split())
    return members


def _threads(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _full_inside(pid):
    """The number of files in bubblewrap's scratch folder, whose size bubblewrap itself limits."""
    try:
        there = os.statvfs(f"/proc/{pid}/root/scratch")
    except OSError:  # not started, or ended
        return False
    return there.f_files - there.f_ffree > FILES


def _full(folder):
    """Whether the folder holds too much, or is too deep or too closed to be looked into."""
    todo, files, size = [folder], 0, 0
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    files += 1
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * 512
                    if files > FILES or size > BYTES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError:
            return True
    return False
