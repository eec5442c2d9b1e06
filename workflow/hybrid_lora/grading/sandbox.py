"""Run one process that is not trusted, contained.

Modes. `bubblewrap`: no network, own process and user name space, nothing of the file system but the interpreter and
/usr (read-only) and an empty scratch folder in memory. `limits`, weaker: the user's own identity and process table, files as
Landlock lets it (`grading.landlock`: the same ones, and a scratch folder on the disk); on a
kernel without Landlock it can read what the user can read and write up to 16 MiB a file where the user can write, another
process's memory too if that is permitted. Both: bare interpreter, new session killed as a group, limits on memory, CPU, file
size and open files, on threads and the folder's files (`grading.excess`), a system-call filter (`grading.seccomp`), bounded
output, wall-clock limit.
"""

import atexit
import contextlib
import functools
import math
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass

from hybrid_lora.common.errors import UserError
from hybrid_lora.grading import landlock, seccomp, waiting

SETTINGS = ("bubblewrap", "limits", "auto")
OUTPUT_BYTES = 8 << 20
SCRATCH_BYTES = 64 << 20
FILE_BYTES = 16 << 20
SPARE_BYTES = 32 << 20  # between the soft and the hard memory limit: to report a memory error
# What LeetCode's own judge offers beyond the standard library, where it is installed; LeetCodeDataset's solutions use it.
LIBRARIES = ("sortedcontainers", "numpy", "numpy.libs")
# The order of sets is fixed, so that verdicts repeat. One of LeetCodeDataset's own solutions lists a set; in this order all of
# v0.3.1-test and v0.2.0-train pass, in about half of the others that one (word-ladder-ii) does not.
ENVIRONMENT = {"PYTHONHASHSEED": "1", "PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
INSIDE = "/libraries"  # where bubblewrap shows them
PYTHON = [os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable), "-s", "-S", "-P", "-B", "-X", "utf8"]


@dataclass(frozen=True)
class Result:
    """status: exit status, negative for a signal, None if killed by us; timed_out; overflow: None, or what there was too much
    of: output, threads, files."""

    status: int | None
    timed_out: bool
    overflow: str | None
    output: bytes
    errors: str
    wall_s: float


def choose(setting):
    """The mode for the setting `grading.sandbox`; UserError if bubblewrap is asked for and cannot be used."""
    if setting not in SETTINGS:
        raise UserError(f"grading.sandbox: {setting!r} is not one of {', '.join(SETTINGS)}")
    problem = None if setting == "limits" else _bubblewrap_problem()
    if setting != "limits" and problem is None:
        return "bubblewrap"
    if setting != "bubblewrap" and seccomp.program() is None:
        raise UserError(
            f"grading.sandbox: {setting}: the mode `limits` needs a system-call filter, which this machine has none of"
        )
    if setting == "limits":
        return setting
    if setting == "auto":
        print(f"grading.sandbox: auto: {problem}; using the weaker mode `limits`", file=sys.stderr, flush=True)
        return "limits"
    raise UserError(f"grading.sandbox: bubblewrap: {problem}; install bubblewrap, or allow the weaker mode: limits | auto")


@functools.cache
def _bubblewrap_problem():
    """None if bubblewrap works here (tried with `true`), else why it does not, in one line."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        done = subprocess.run([*_bubblewrap(), "true"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        return f"bwrap cannot be run ({type(error).__name__})"
    return None if done.returncode == 0 else f"bwrap does not work here ({(done.stderr.strip() or 'no message').splitlines()[0]})"


@functools.cache
def _bubblewrap():
    """The command up to the program: only the interpreter, /usr and an empty scratch folder exist inside."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid", "65534", "--gid", "65534", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    prefix = os.path.realpath(sys.base_prefix)
    for folder in ("bin", "lib"):
        if not prefix.startswith("/usr"):
            command += ["--ro-bind", f"{prefix}/{folder}", f"{prefix}/{folder}"]
    command += ["--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/scratch", "--chdir", "/scratch"]
    for name, path in libraries().items():
        command += ["--ro-bind", path, f"{INSIDE}/{name}"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/"]


@functools.cache
def libraries():
    """{name: folder} of the LIBRARIES that are installed; nothing else of site-packages is shown to a program."""
    found = {}
    for folder in map(sysconfig.get_path, ("purelib", "platlib")):
        found |= {name: f"{folder}/{name}" for name in LIBRARIES if os.path.isdir(f"{folder}/{name}")}
    return found


def library_path(mode):
    """The folder to put on the program's import path, None if there is none."""
    if not libraries():
        return None
    return INSIDE if mode == "bubblewrap" else _links()


@functools.cache
def _links():
    """A folder with links to the libraries, removed when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="hybrid_lora-libraries-")
    atexit.register(folder.cleanup)
    for name, path in libraries().items():
        os.symlink(path, os.path.join(folder.name, name))
    return folder.name


def limits(timeout_s, memory_mb):
    """(name, soft, hard) of the resource limits that the program sets for itself before it runs any foreign code."""
    memory, seconds = memory_mb << 20, math.ceil(timeout_s) + 1
    values = {"RLIMIT_AS": (memory, memory + SPARE_BYTES), "RLIMIT_CPU": (seconds, seconds)}
    values |= {"RLIMIT_FSIZE": (FILE_BYTES, FILE_BYTES), "RLIMIT_CORE": (0, 0), "RLIMIT_NOFILE": (64, 64)}
    bounded = []
    for name, wanted in values.items():
        ceiling = resource.getrlimit(getattr(resource, name))[1]
        cut = [value if ceiling == resource.RLIM_INFINITY else min(value, ceiling) for value in wanted]
        bounded.append((name, *cut))
    return bounded


def own_filter(mode):
    """The filter that the program must install itself: bubblewrap does it for us."""
    return None if mode == "bubblewrap" else seccomp.program()


def own_files(mode):
    """The Landlock rules that the program must set itself, None if it need not or cannot."""
    if mode == "bubblewrap":
        return None
    readable = [*landlock.interpreter(), *libraries().values(), *filter(None, [library_path(mode)])]
    return landlock.rules(readable, ".")


def run(arguments, stdin, mode, timeout_s, output_bytes=OUTPUT_BYTES, startup_s=0):
    """Run the bare interpreter with `arguments` and the bytes `stdin`; Result. OSError if no process can be started.

    timeout_s: wall time, startup_s: the same up to the first output, as `waiting.collect` counts them.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as job, tempfile.TemporaryFile() as errors:
        job.write(stdin)
        job.seek(0)
        with _scratch(mode) as folder, _filter(mode) as handle:
            extra = ["--seccomp", str(handle.fileno())] if handle else []
            command = [*_bubblewrap(), *extra, *PYTHON] if mode == "bubblewrap" else PYTHON
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=job,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=ENVIRONMENT | {"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
                pass_fds=[handle.fileno()] if handle else [],
            )
            try:
                output, timed_out, overflow = waiting.collect(process, timeout_s, output_bytes, startup_s, folder)
            finally:
                waiting.kill(process)
        errors.seek(0)
        text = errors.read(2_000).decode("utf-8", "replace")
    status = None if timed_out or overflow else process.returncode
    return Result(status, timed_out, overflow, output, text, time.monotonic() - began)


@contextlib.contextmanager
def _scratch(mode):
    """A context that yields the working folder, None for bubblewrap, which makes its own."""
    if mode == "bubblewrap":
        yield None
        return
    folder = tempfile.mkdtemp(prefix="hybrid_lora-")
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder):
    """rm, not rmtree, which gives up on folders that a program nested too deep or closed."""
    os.chmod(folder, 0o700)
    if os.listdir(folder):
        for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
            subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL)
    else:
        os.rmdir(folder)


@contextlib.contextmanager
def _filter(mode):
    """An open file that holds the filter for bubblewrap to load, None where there is none to pass."""
    code = seccomp.program()
    if mode != "bubblewrap" or code is None:
        yield None
        return
    with tempfile.TemporaryFile() as handle:
        handle.write(code)
        handle.seek(0)
        yield handle
