"""data: a training corpus or a benchmark, from the hub, a local file or generated."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli

_SOURCE = "the local file, where settings.data is a path (default: that path)"


def add_commands(subparsers):
    """The stage's commands."""
    corpus = cli.command(subparsers, "corpus", _corpus, "conversations to train and validate on", outputs=["train", "val"])
    benchmark = cli.command(subparsers, "benchmark", _benchmark, "problems to evaluate on", outputs=["out"])
    for command in (corpus, benchmark):
        # The value may be absent: a rule always writes the option, and has no file for hub and generated data.
        command.add_argument("--source", type=_path, nargs="?", metavar="PATH", help=_SOURCE)


def _path(text):
    return Path(text) if text else None


def _corpus(arguments):
    from hybrid_lora.data import corpus

    corpus.run(arguments.settings, arguments.train, arguments.val, arguments.source)


def _benchmark(arguments):
    from hybrid_lora.data import benchmark

    benchmark.run(arguments.settings, arguments.out, arguments.source)


def main(argv=None):
    """`python -m hybrid_lora.data`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora data", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
