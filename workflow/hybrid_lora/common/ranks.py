"""Which of a command's processes this is: by what a launcher (accelerate, torchrun) has set; without one it is 0 of 1.

The first process holds the leases, keeps the state and publishes. The others wait for its word before they touch anything,
as it may find that another job makes the same files, or that all is made already.
"""

import atexit
import importlib
import os
import sys
from datetime import timedelta

GO, STOP = "go", "stop"
KEY = "hybrid_lora/word"
PATIENCE = timedelta(days=60)  # the first one may wait that long for another job's lease


def rank():
    """Number of this process, from 0, over all nodes."""
    return int(os.environ.get("RANK", 0))


def count():
    """Number of processes over all nodes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first():
    """Whether this is the process that writes."""
    return rank() == 0


def say(word):
    """GO or STOP from the first process to the others."""
    if count() > 1:
        _store().set(KEY, word)


def heard():
    """The word of the first process; waits for it."""
    return _store().get(KEY).decode()


def leave(status):
    """End this process with an exit status; one of several, or with an engine, does so without taking its libraries apart.

    In that last moment threads of torch's process groups have aborted a process that was done ("terminate called without an
    active exception"); the launcher then ends the others, and Snakemake removes what has been published.
    """
    if count() > 1 or "vllm" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _store():
    """The launcher's key-value store, which torch.distributed uses too."""
    # By name: every command imports this file, and torch's version must count for those alone that compute with it (`packages`).
    store = importlib.import_module("torch.distributed").TCPStore
    return store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
