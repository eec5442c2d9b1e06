"""data: a training corpus or a benchmark, from the hub, a local file or generated; what the two have in common."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli

_SOURCE = "the local file, where settings.data is a path (default: that path)"


def add_commands(subparsers):
    """The stage's commands."""
    corpus = cli.command(subparsers, "corpus", _corpus, "conversations to train and validate on", outputs=["train", "val"])
    benchmark = cli.command(subparsers, "benchmark", _benchmark, "problems to evaluate on", outputs=["out"])
    text = "which rows of a corpus share text with problems of benchmarks"
    overlap = cli.command(subparsers, "overlap", _overlap, text, paths=["train", "val"], outputs=["out", "summary"])
    cli.command(subparsers, "stage", _stage, "fetch a hub data set to the hub's cache", outputs=["out"])
    for command in (corpus, overlap):
        command.add_argument("--benchmarks", type=Path, nargs="*", default=[], metavar="PATH", help="benchmark files")
    for command in (corpus, benchmark):
        # The value may be absent: a rule always writes the option, and has no file for hub and generated data.
        command.add_argument("--source", type=_path, nargs="?", metavar="PATH", help=_SOURCE)
    benchmark.add_argument("--examples", type=_path, nargs="?", metavar="PATH", help="the same for settings.few_shot.data")


def _path(text):
    return Path(text) if text else None


def _corpus(arguments):
    from hybrid_lora.data import corpus

    corpus.run(arguments.settings, arguments.train, arguments.val, arguments.source, arguments.benchmarks)


def _benchmark(arguments):
    from hybrid_lora.data import benchmark

    benchmark.run(arguments.settings, arguments.out, arguments.source, arguments.examples)


def _overlap(arguments):
    from hybrid_lora.data import overlap

    inputs = (arguments.train, arguments.val, arguments.benchmarks)
    overlap.run(arguments.settings, *inputs, arguments.out, arguments.summary)


def _stage(arguments):
    from hybrid_lora.common.files import write_json
    from hybrid_lora.data import sources

    raw = sources.from_hub(arguments.settings)
    write_json(arguments.out, {**arguments.settings, "rows": len(raw.rows), **raw.facts})


def main(argv=None):
    """`python -m hybrid_lora.data`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora data", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
