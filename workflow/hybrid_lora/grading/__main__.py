"""Grade completions from JSON lines: math, choice or code, without the rest of the pipeline."""

import argparse
import os
import sys

from hybrid_lora.common import cli

SUMMARIES = {
    "math": "grade answers; rows {id, completion, gold}: gold is an answer or a worked solution that ends in one",
    "choice": "grade letters; rows {id, completion, gold, options}: gold is a letter, options a list of texts",
    "code": "grade programs; rows {id, completion, tests}: tests are {prompt, test, entry_point} as in LeetCodeDataset",
}


def add_commands(subparsers):
    """Add one command a kind to an argparse subparsers object."""
    for kind, summary in SUMMARIES.items():
        command = cli.command(subparsers, kind, _run, summary, paths=["in"], outputs=["out"], with_settings=False)
        command.add_argument(
            "--workers",
            type=_positive,
            default=len(os.sched_getaffinity(0)),
            metavar="N",
            help="answers or programs at a time (default: the usable processors)",
        )
        command.set_defaults(kind=kind)
        if kind == "math":
            command.add_argument("--timeout", type=_seconds, default=5, metavar="S", help="seconds to read or compare an answer")
        if kind == "code":
            command.add_argument("--timeout", type=_seconds, default=60, metavar="S", help="seconds of one program's tests")
            command.add_argument("--memory", type=_positive, default=1024, metavar="MB", help="memory of one program")
            command.add_argument(
                "--sandbox",
                choices=["bubblewrap", "limits", "auto"],
                default="bubblewrap",
                help="limits is weaker; auto takes it where bubblewrap does not work",
            )


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def _run(arguments):
    from hybrid_lora.grading import lines

    lines.run(arguments)


def main(argv=None):
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="hybrid_lora grading", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="math|choice|code"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
