"""scores: rank the modules by a criterion."""

import argparse
import sys

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    aggregate = cli.command(subparsers, "aggregate", _aggregate, "one criterion's score file", paths=["modules"], outputs=["out"])
    aggregate.add_argument("--dumps", nargs="*", default=[], metavar="PATH", help="what the criterion is computed from")
    measured = "manifest of the training that the dumps were measured on, to check that they still are its own"
    aggregate.add_argument("--measured-on", nargs="*", default=[], metavar="PATH", help=measured)


def _aggregate(arguments):
    from hybrid_lora.scores import aggregate

    aggregate.run(arguments.settings, arguments.modules, arguments.dumps, arguments.measured_on, arguments.out)


def main(argv=None):
    """`python -m hybrid_lora.scores`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora scores", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
