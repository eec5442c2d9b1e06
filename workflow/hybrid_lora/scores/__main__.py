"""scores: aggregate sensitivities into a ranked score per module."""

import argparse
import sys

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    aggregate = cli.command(subparsers, "aggregate", _aggregate, "one criterion's score file", paths=["modules"], outputs=["out"])
    aggregate.add_argument("--sensitivity", nargs="*", default=[], metavar="PATH", help="dumps, for criteria that need them")


def _aggregate(arguments):
    from hybrid_lora.scores import aggregate

    aggregate.run(arguments.settings, arguments.modules, arguments.sensitivity, arguments.out)


def main(argv=None):
    """`python -m hybrid_lora.scores`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora scores", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
