"""A disk that is full or read-only ends a command with one line; every other failure keeps its traceback."""

import argparse
import errno
import os
import signal
import subprocess
import sys

import pytest

from hybrid_lora.common import cli


def ended(error):
    parser = argparse.ArgumentParser(prog="x")

    def fail(_):
        raise error

    cli.command(parser.add_subparsers(required=True), "make", fail, "fails", with_settings=False)
    return cli.run(parser, ["make"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "results/a"),
            "results/a: No space left on device; make room and start again",
        ),
        (OSError(errno.EROFS, "Read-only file system", "results/a"), "results/a: Read-only file system"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "output: No space left on device"),
    ],
)
def test_one_line(error, line, capsys):
    assert ended(error) == 2
    assert capsys.readouterr().err == f"hybrid_lora: error: {line}\n"


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


@pytest.mark.parametrize("buffered", [[], ["-u"]])
def test_a_reader_that_leaves_is_no_failure(buffered):
    """`| head`: what is printed after it has left goes nowhere."""
    command = [sys.executable, *buffered, "-m", "hybrid_lora.config", "check"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
