"""`python -m hybrid_lora`, the same as the console script `hybrid_lora`: every stage is a subcommand."""

import argparse
import importlib

from hybrid_lora.common import cli, ranks

STAGES = ("config", "data", "model", "probe", "scores", "allocation", "training", "evaluation", "report")
LIBRARIES = ("grading",)  # below the stages, with commands of their own
COMMANDS = ("export", "plan")  # across the stages, each a command itself
ACROSS = ("provenance",)  # their commands look at all stages and stand beside them


def parser():
    """The top-level parser with one subparser a stage."""
    top = argparse.ArgumentParser(prog="hybrid_lora", description="Hybrid-LoRA, stage by stage. Snakemake runs these for you.")
    stages = top.add_subparsers(dest="stage", required=True, metavar="stage")
    for name in (*STAGES, *LIBRARIES):
        stage = importlib.import_module(f"hybrid_lora.{name}.__main__")
        summary = stage.__doc__.splitlines()[0]
        sub = stages.add_parser(name, help=summary, description=summary)
        stage.add_commands(sub.add_subparsers(dest="command", required=True, metavar="command"))
    for name in COMMANDS:
        importlib.import_module(f"hybrid_lora.{name}.__main__").add_command(stages)
    for name in ACROSS:
        importlib.import_module(f"hybrid_lora.{name}.__main__").add_commands(stages)
    return top


def main(argv=None):
    """Console entry point; returns the exit status."""
    return cli.run(parser(), argv)


if __name__ == "__main__":
    ranks.leave(main())
