"""Processes that compare math answers, each killed and replaced if an answer hangs it.

math-verify's own timeouts are alarms: they cannot stop one long operation in C (9^{9^{9}}), nor work in threads. The
processes start at the first use, import the library once, and live as long as ours.
"""

import atexit
import json
import logging
import os
import queue
import resource
import selectors
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hybrid_lora.grading import math
from hybrid_lora.grading.verdict import Verdict, failed, guarded

MEMORY_BYTES = 4 << 30
STARTUP_S = 120  # importing the library on a busy machine


class Ended(Exception):
    """The process ended by itself."""


class Hung(Exception):
    """No answer in time; the process was killed."""


class Process:
    """One process: `ask` sends a request and waits for its answer."""

    def __init__(self):
        root = str(Path(__file__).resolve().parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        command = [sys.executable, "-c", "from hybrid_lora.grading.pool import serve; serve()"]
        # errors are not shown: the library logs the text it could not parse
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self._read(STARTUP_S)

    def ask(self, request, timeout_s):
        """The answer to a JSON request; Hung or Ended if there is none."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise Ended from None
        return self._read(timeout_s)

    def _read(self, timeout_s):
        deadline, data = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0, deadline - time.monotonic())):
                    self.close()
                    raise Hung
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    self.close()
                    raise Ended
                data += chunk
        return json.loads(data)

    def close(self):
        """Kill the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def serve():
    """The other side: one request a line in, one answer a line out, until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ceiling = resource.getrlimit(resource.RLIMIT_AS)[1]
    if ceiling == resource.RLIM_INFINITY or ceiling > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, ceiling))
    import math_verify  # noqa: F401  the import takes longer than any answer

    logging.disable(logging.CRITICAL)
    print("true", file=out, flush=True)
    for line in sys.stdin:
        verdict = math.compare(**json.loads(line))
        print(json.dumps([verdict.correct, verdict.extracted, verdict.error]), file=out, flush=True)


_idle = queue.LifoQueue()


@atexit.register
def close():
    """Kill the idle processes; new ones start when needed."""
    while not _idle.empty():
        _idle.get_nowait().close()


def compare(answer, gold, timeout_s, options=None, match_types=None):
    """`math.compare` in one of the processes; never raises for what is compared."""
    request = {"answer": answer, "gold": gold, "timeout_s": timeout_s, "options": options, "match_types": match_types}
    for _ in range(2):  # a process that died while idle, or of this answer
        try:
            process = _take()
        except (Ended, Hung, OSError):  # no answer has been looked at yet
            return failed("no process for math-verify", math.shown(answer))
        try:
            verdict = Verdict(*process.ask(request, 4 * timeout_s + 5))
        except Hung:
            return Verdict(False, math.shown(answer), "timeout")
        except (Ended, OSError):
            continue
        _idle.put(process)
        return verdict
    return failed("the comparing process ended", math.shown(answer))


def _take():
    try:
        return _idle.get_nowait()
    except queue.Empty:
        return Process()


def grade_many(rows, timeout_s, workers=1, progress=None):
    """Verdicts of (completion, gold) or (completion, gold, options, match_types), see `math.grade`, in order.

    Only what needs the library goes to `workers` processes.
    """
    verdicts, todo = [None] * len(rows), []
    for i, (completion, gold, *how) in enumerate(rows):
        prepared = guarded(None, math.prepare, completion, gold, how[1] if how else None)
        answer, verdicts[i] = (None, prepared) if isinstance(prepared, Verdict) else prepared
        if verdicts[i] is None:
            todo.append((i, (answer, gold, timeout_s, *how)))
        elif progress:
            progress.step()
    with ThreadPoolExecutor(max(1, workers)) as threads:
        results = threads.map(lambda item: guarded(math.shown(item[1][0]), compare, *item[1]), todo)
        for (i, _), verdict in zip(todo, results):
            verdicts[i] = verdict
            if progress:
                progress.step()
    return verdicts
