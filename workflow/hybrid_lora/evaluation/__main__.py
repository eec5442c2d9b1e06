"""Evaluate a run on a benchmark: complete, grade, metrics; compare runs."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli


def add_commands(subparsers):
    """Add this stage's commands to an argparse subparsers object."""
    complete = cli.command(
        subparsers,
        "complete",
        _complete,
        "write the model's completions",
        paths=["benchmark"],
        folders=["model"],
        outputs=["out"],
    )
    complete.add_argument(
        "--policy",
        type=cli.folder,
        nargs="*",
        default=[],
        metavar="PATH",
        help="trained adapter or model; none: the model itself",
    )
    complete.add_argument("--state", type=Path, required=True, metavar="PATH", help="folder for finished batches")
    inputs = ["completions", "benchmark"]
    grade = cli.command(subparsers, "grade", _grade, "grade completions", paths=inputs, outputs=["out"])
    grade.add_argument("--workers", type=_positive, default=1, metavar="N", help="programs or comparisons at a time (default 1)")
    cli.command(subparsers, "metrics", _metrics, "metrics of one run", paths=["grades", *inputs], outputs=["out"])
    summary = "paired comparisons of runs, spread over seeds"
    compare = cli.command(subparsers, "compare", _compare, summary, outputs=["csv", "seeds", "md"])
    # Snakemake expands an empty list of inputs to nothing; what that means is said by the command, not by argparse.
    compare.add_argument("--grades", type=Path, required=True, nargs="*", metavar="PATH", help="files that the settings name")


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _complete(arguments):
    from hybrid_lora.evaluation import complete

    complete.run(arguments)


def _grade(arguments):
    from hybrid_lora.evaluation import grade

    grade.run(arguments)


def _metrics(arguments):
    from hybrid_lora.evaluation import metrics

    metrics.run(arguments)


def _compare(arguments):
    from hybrid_lora.evaluation import compare

    compare.run(arguments)


def main(argv=None):
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hybrid_lora evaluation", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
