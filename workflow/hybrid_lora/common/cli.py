"""What every stage's command line shares: --settings, a lease of its outputs, a sign of life, and errors as one line."""

import argparse
import errno
import json
import os
import platform
import select
import signal
import sys
from pathlib import Path

from hybrid_lora.common import alive, lease, ranks
from hybrid_lora.common.errors import Interrupted, UserError
from hybrid_lora.common.files import read_json

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class Given(dict):
    """A JSON object from the command line, at any depth: a key that is missing becomes one line instead of a traceback."""

    def __missing__(self, key):
        raise UserError(f"--settings: key '{key}' is missing among {', '.join(map(str, self)) or 'none'}")


def settings(text):
    """argparse type: a JSON object given inline, or @FILE that holds one."""
    try:
        value = read_json(text[1:]) if text.startswith("@") else json.loads(text)
        value = json.loads(json.dumps(value), object_hook=Given)
    except (UserError, json.JSONDecodeError) as error:
        raise argparse.ArgumentTypeError(f"not a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def folder(text):
    """argparse type: a directory artifact, given as the folder or as the manifest.json in it, which rules track."""
    path = Path(text)
    return path.parent if path.name == "manifest.json" else path


def command(subparsers, name, run, summary, paths=(), folders=(), outputs=(), many=(), with_settings=True):
    """Add one command: `paths`, `folders` and `outputs` become required --options of type Path, `many` take several.

    `run(arguments)` is called with the parsed namespace; it should import what is heavy itself.
    """
    parser = subparsers.add_parser(name, help=summary, description=summary)
    for option in paths:
        parser.add_argument(f"--{option}", type=Path, required=True, metavar="PATH", help="input")
    for option in folders:
        parser.add_argument(f"--{option}", type=folder, required=True, metavar="PATH", help="input folder, or its manifest.json")
    for option in many:
        parser.add_argument(f"--{option}", type=Path, required=True, nargs="+", metavar="PATH", help="inputs")
    for option in outputs:
        parser.add_argument(f"--{option}", type=Path, required=True, metavar="PATH", help="output")
    if with_settings:
        parser.add_argument("--settings", type=settings, required=True, metavar="JSON", help="inline JSON or @FILE")
    parser.set_defaults(run=run, makes=outputs)
    return parser


def run(parser, argv=None):
    """Parse, run, and return the exit status; UserError and a full or read-only disk become one line, Ctrl-C one word."""
    arguments = parser.parse_args(argv)
    # The hub is asked only where a source says `hub`; datasets' progress bars have no ETA a log file can show.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    outputs = [getattr(arguments, name) for name in getattr(arguments, "makes", ())]
    command = [parser.prog, *(sys.argv[1:] if argv is None else argv)]
    try:
        status = arguments.several(command[1:]) if "several" in arguments else None
        if status is not None:
            return status
        _say_where()
        if not ranks.first():
            arguments.run(arguments)
            return 0
        with lease.held(outputs, command) as finished:
            if finished:
                ranks.say(ranks.STOP)
                print("hybrid_lora: that one has finished it; nothing is left to do", file=sys.stderr)
                return 0
            with alive.shown(outputs):
                arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _failed(error)
    except Interrupted as stop:
        if ranks.first():  # all are stopped together
            print(f"hybrid_lora: {stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("hybrid_lora: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if reason := _storage(error):
            return _failed(reason)
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 128 + signal.SIGPIPE
        raise
    return 0


def _failed(reason):
    which = "" if ranks.first() else f" (process {ranks.rank()})"
    print(f"hybrid_lora: error{which}: {reason}", file=sys.stderr)
    return 2


def _storage(error):
    """One line about a disk that is full or cannot be written; None for any other error."""
    if isinstance(error, OSError) and error.errno in STORAGE:
        full = "; make room and start again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{error.filename or 'output'}: {error.strerror}{full}"
    # Libraries that write weights and tables turn the system's error into text.
    return next((f"output: {text}" for text in map(os.strerror, STORAGE[:3]) if text in str(error)), None)


def _nobody_reads():
    """Whether the reader of our output has left, as `| head` does; what is still to be written goes nowhere then."""
    left = select.poll()
    left.register(sys.stdout, 0)  # errors alone
    if left.poll(0):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _say_where():
    """In a job of Slurm, the first line of the log: which job, where, with what."""
    if job := os.environ.get("SLURM_JOB_ID"):
        processors = os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
        where = f"Slurm job {job} on {platform.node()}, processors {processors}, GPUs {gpus}"
        print(f"hybrid_lora: {where}", file=sys.stderr, flush=True)
