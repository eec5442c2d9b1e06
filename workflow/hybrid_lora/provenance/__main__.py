"""provenance: what artifacts were made from, against today's configuration, inputs and code."""

import contextlib
import os
import sys
from pathlib import Path

from hybrid_lora.common import cli
from hybrid_lora.config.__main__ import add_options


def add_commands(subparsers):
    """The commands; they stand beside the stages: `hybrid_lora why FILE`."""
    why = cli.command(subparsers, "why", _why, "say what made an artifact stale", with_settings=False)
    why.add_argument("file", metavar="FILE", help="an artifact below results/, or a target such as `evaluate`")
    add_options(why)
    status = cli.command(subparsers, "status", _status, "stages and costs of every run at a glance", with_settings=False)
    add_options(status)
    verify = cli.command(
        subparsers, "verify", _verify, "compare artifacts with the hashes in their manifests", with_settings=False
    )
    verify.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders; all of results/ by default")
    summary = "let Snakemake know copied results that fit today's configuration, inputs and code"
    add_options(cli.command(subparsers, "adopt", _adopt, summary, with_settings=False))


def _why(arguments):
    from hybrid_lora.provenance import why

    with _into_a_pipe():
        why.run(arguments)


def _status(arguments):
    from hybrid_lora.provenance import status

    with _into_a_pipe():
        status.run(arguments)


def _verify(arguments):
    from hybrid_lora.provenance import verify

    arguments.paths = arguments.paths or [Path("results")]
    verify.run(arguments)


def _adopt(arguments):
    from hybrid_lora.provenance import adopt

    adopt.run(arguments)


@contextlib.contextmanager
def _into_a_pipe():
    """Whoever reads may stop early, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
