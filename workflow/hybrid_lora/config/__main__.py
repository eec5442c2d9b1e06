"""config: check the configuration and the runs table without running anything."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli


def add_commands(subparsers):
    """The stage's commands."""
    add_options(cli.command(subparsers, "check", _check, "say what is configured, or the first mistake", with_settings=False))


def add_options(parser):
    """--configfile and --config, as `snakemake` has them."""
    parser.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="laid over config/config.yaml")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the files")


def _check(arguments):
    from hybrid_lora.config import loading

    config = loading.read(arguments.configfile, arguments.config, Path.cwd())
    trained = sum(run.objective is not None for run in config.runs)
    models = sorted({run.model for run in config.runs})
    benchmarks = config.values["evaluation"]["benchmarks"]
    print(f"{len(config.runs)} runs, {trained} trained, of {', '.join(models)}, on {', '.join(benchmarks)}")


def main(argv=None):
    """`python -m hybrid_lora.config`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora config", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
