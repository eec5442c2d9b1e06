"""training: train one run's policy with TRL under its placement."""

import argparse
from pathlib import Path

from hybrid_lora.common import cli, ranks


def add_commands(subparsers):
    """The stage's commands."""
    train = cli.command(
        subparsers,
        "train",
        _train,
        "SFT, GRPO or GSPO on a full, LoRA or hybrid placement",
        paths=["train", "val"],
        folders=["model"],
        outputs=["out", "history", "trainable", "samples"],
    )
    train.add_argument("--allocation", type=Path, nargs="*", default=[], metavar="PATH", help="allocation JSON, for hybrids")
    train.add_argument("--programs", type=Path, nargs="*", default=[], metavar="PATH", help="corpus whose code rows are added")
    train.add_argument("--state", type=Path, required=True, metavar="PATH", help="folder for resumable state")
    train.add_argument("--workers", type=int, default=1, help="programs graded at the same time")
    train.set_defaults(several=_several)


def _train(arguments):
    from hybrid_lora.training import train

    train.run(arguments)


def _several(words):
    from hybrid_lora.training import launch

    return launch.several(words[words.index("train") :])  # without the name of the stage, where it was given


def main(argv=None):
    """`python -m hybrid_lora.training`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora training", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    ranks.leave(main())
