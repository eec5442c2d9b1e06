"""probe: warm up the SVD-LoRA probe and dump per-batch sensitivities."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    warmup = cli.command(
        subparsers,
        "warmup",
        _warmup,
        "train the SVD-LoRA branches alone",
        paths=["train"],
        folders=["model"],
        outputs=["out"],
    )
    warmup.add_argument("--state", type=Path, required=True, metavar="PATH", help="folder for resumable state")
    sensitivity = cli.command(
        subparsers,
        "sensitivity",
        _sensitivity,
        "per-batch sensitivities of one chunk of validation batches (Algorithm 1)",
        paths=["val"],
        folders=["model", "warmup"],
        outputs=["out"],
    )
    sensitivity.add_argument("--chunk", type=int, required=True, help="which chunk, from 0")


def _warmup(arguments):
    from hybrid_lora.probe import warmup

    warmup.run(arguments.settings, arguments.model, arguments.train, arguments.out, arguments.state)


def _sensitivity(arguments):
    from hybrid_lora.probe import sensitivity

    sensitivity.run(arguments.settings, arguments.model, arguments.warmup, arguments.val, arguments.chunk, arguments.out)


def main(argv=None):
    """`python -m hybrid_lora.probe`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora probe", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
