"""model: a Hugging Face folder, from the hub, a local folder, or trained from scratch."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    cli.command(subparsers, "fetch", _fetch, "link a local model folder or a hub snapshot", outputs=["out"])
    cli.command(subparsers, "stage", _stage, "fetch a hub model to the hub's cache", outputs=["out"])
    scratch = cli.command(subparsers, "pretrain", _pretrain, "train a small model from scratch", paths=["train"], outputs=["out"])
    scratch.add_argument("--state", type=Path, required=True, metavar="PATH", help="folder for resumable state")


def _fetch(arguments):
    from hybrid_lora.model import fetch

    fetch.run(arguments.settings, arguments.out)


def _stage(arguments):
    from hybrid_lora.model import fetch

    fetch.stage(arguments.settings, arguments.out)


def _pretrain(arguments):
    from hybrid_lora.model import pretrain

    pretrain.run(arguments.settings, arguments.train, arguments.out, arguments.state)


def main(argv=None):
    """`python -m hybrid_lora.model`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora model", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
