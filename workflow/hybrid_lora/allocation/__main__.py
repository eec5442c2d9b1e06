"""allocation: choose the modules for full fine-tuning under a budget; what budgets amount to at the paper's sizes."""

import argparse
import sys

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    cli.command(subparsers, "select", _select, "greedy selection by rank", paths=["scores", "modules"], outputs=["out"])
    cli.command(subparsers, "budgets", _budgets, "tunable parameters at the paper's sizes", outputs=["csv", "md"])


def _select(arguments):
    from hybrid_lora.allocation import select

    select.run(arguments.settings, arguments.scores, arguments.modules, arguments.out)


def _budgets(arguments):
    from hybrid_lora.allocation import budgets

    budgets.run(arguments.settings, arguments.csv, arguments.md)


def main(argv=None):
    """`python -m hybrid_lora.allocation`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora allocation", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
