"""Wait for a process that is not trusted: bounded output, bounded time, killed with its whole group.

The limit is on wall time. On a machine with more work than processors a program that computes gets less of one than it asks
for, and a verdict must not depend on what else runs: at its limit such a program goes on until it has had that much
processor time itself, for at most PATIENCE times the limit. One that sleeps or waits is stopped at the limit.
"""

import contextlib
import os
import selectors
import signal
import time
from pathlib import Path

from hybrid_lora.grading import excess

PATIENCE = 4
_TICKS = os.sysconf("SC_CLK_TCK")


def collect(process, timeout_s, output_bytes, startup_s=0, folder=None):
    """(output, timed out, overflow): read until the process has ended, not until its pipe closes: both can be held up.

    The clock starts with the first output, at the latest after `startup_s`. overflow: None, or what the process had too much
    of: `output`, or `threads` or `files` (see `excess.found`, which is told `folder`).
    """
    pipe, chunks, size = process.stdout, [], 0
    began = time.monotonic() + startup_s
    deadline, look = began + timeout_s, time.monotonic() + excess.INTERVAL_S
    os.set_blocking(pipe.fileno(), False)
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                ready = {key.fd for key, _ in selector.select(max(min(left, excess.INTERVAL_S), 0))}
                if pipe.fileno() in ready:
                    chunk = os.read(pipe.fileno(), 1 << 20)
                    if time.monotonic() < began:
                        began, deadline = time.monotonic(), time.monotonic() + timeout_s
                        left = timeout_s
                    chunks.append(chunk)
                    size += len(chunk)
                    if not chunk:
                        selector.unregister(pipe)
                    if size > output_bytes:
                        return b"".join(chunks), False, "output"
                elif ended in ready:
                    return b"".join(chunks), False, None
                if time.monotonic() >= look:
                    if over := excess.found(process.pid, folder):
                        return b"".join(chunks), False, over
                    look = time.monotonic() + excess.INTERVAL_S
                if left <= 0:
                    more = still_due(processor_seconds(process.pid), time.monotonic() - began, timeout_s)
                    if not more:
                        return b"".join(chunks), True, None
                    deadline = time.monotonic() + more
    finally:
        os.close(ended)
        pipe.close()


def still_due(used_s, elapsed_s, timeout_s):
    """Seconds to go on at least, 0 to stop: processor time that is due, if it can be had in PATIENCE times the limit."""
    if used_s >= timeout_s or used_s * PATIENCE < elapsed_s:
        return 0.0
    return max(0.0, min(max(timeout_s - used_s, 0.02), PATIENCE * timeout_s - elapsed_s))


def processor_seconds(pid):
    """Processor time so far of a process and its living descendants, 0 where the kernel does not say."""
    seconds = 0.0
    for member in excess.family(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):  # ended
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime
    return seconds


def kill(process):
    """Kill the process with its group and wait for it."""
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
