"""What of the file system a program may use in the sandbox's mode `limits`, by Linux's Landlock (kernel 5.13 or later).

Needs no privileges and no user name spaces, so it works in containers that refuse bubblewrap. `grading.runner` restricts
itself by it before it runs any foreign code; where the kernel has none, `limits` protects no files.
"""

import ctypes
import functools
import os
import sys

_CREATE_RULESET = 444  # the same number on all architectures
_VERSION = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE
_FILES = {1: 13, 2: 14, 3: 15, 5: 16}  # version -> rights on files that it knows
_TCP, _SCOPED = 0b11, 0b11  # bind and connect, from version 4; abstract sockets and signals, from version 6


@functools.cache
def version():
    """The kernel's version of Landlock, 0 if there is none."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))


def rules(readable, scratch):
    """{handled: (files, network, scoped), paths: [(path, rights)]} for `runner.restrict_files`, None without Landlock.

    readable: folders and files to be read and executed; scratch: the one folder that may be changed.
    """
    if not version():
        return None
    every = (1 << max(bits for known, bits in _FILES.items() if known <= version())) - 1
    handled = (every, _TCP if version() >= 4 else 0, _SCOPED if version() >= 6 else 0)
    paths = [(path, READ if os.path.isdir(path) else READ & _FILE_ONLY) for path in readable if os.path.exists(path)]
    paths += [(os.devnull, (_READ_FILE | _WRITE_FILE)), ("/dev/urandom", _READ_FILE), (scratch, every & ~_EXECUTE)]
    return {"handled": handled, "paths": paths}


def interpreter():
    """What the bare interpreter needs to run."""
    prefix = os.path.realpath(sys.base_prefix)
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"]
    return system if prefix.startswith("/usr") else [*system, f"{prefix}/bin", f"{prefix}/lib"]
