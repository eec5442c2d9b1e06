"""report: draw Figure 2, write Table 1, the index of the results and the diagnosis of the scores."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    figure2 = cli.command(subparsers, "figure2", _figure2, "layers x module types, red = full", outputs=["png", "svg"])
    _any_number(figure2, "modules", "modules.json of the models that the allocations belong to")
    _any_number(figure2, "allocations", "one panel each, in this order")
    table1 = cli.command(subparsers, "table1", _table1, "accuracy and tunable parameters of every run", outputs=["csv", "md"])
    _any_number(table1, "metrics", "metrics.json files that the settings' rows name")
    _any_number(table1, "tunable", "trainable.json files that the settings' rows name")
    table1.add_argument("--tex", type=Path, metavar="PATH", help="output: the table in LaTeX (default: none)")
    summary, outputs = "criteria against exact perturbation; what seeds and K change", ["csv", "md", "png", "svg"]
    diagnose = cli.command(subparsers, "diagnose", _diagnose, summary, paths=["modules"], outputs=outputs)
    _any_number(diagnose, "scores", "score files that the settings name")
    _any_number(diagnose, "allocations", "allocation files that the settings name")
    cli.command(subparsers, "index", _index, "one page of all figures and tables", many=["artifacts"], outputs=["out"])


def _any_number(parser, name, summary):
    # Snakemake expands an empty list of inputs to nothing; what that means is said by the command, not by argparse.
    parser.add_argument(f"--{name}", type=Path, required=True, nargs="*", metavar="PATH", help=summary)


def _figure2(arguments):
    from hybrid_lora.report import figure2

    figure2.run(arguments.settings, arguments.modules, arguments.allocations, arguments.png, arguments.svg)


def _table1(arguments):
    from hybrid_lora.report import table1

    table1.run(arguments.settings, arguments.metrics, arguments.tunable, arguments.csv, arguments.md, arguments.tex)


def _diagnose(arguments):
    from hybrid_lora.report import diagnose

    outputs = (arguments.csv, arguments.md, arguments.png, arguments.svg)
    diagnose.run(arguments.settings, arguments.modules, arguments.scores, arguments.allocations, *outputs)


def _index(arguments):
    from hybrid_lora.report import index

    index.run(arguments.settings, arguments.artifacts, arguments.out)


def main(argv=None):
    """`python -m hybrid_lora.report`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora report", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
