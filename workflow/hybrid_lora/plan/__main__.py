"""plan: what a run will need before anything is queued: memory, tokens, trained parameters, disk, GPU-hours."""

import argparse
import dataclasses
import sys
from pathlib import Path

from hybrid_lora.common import cli
from hybrid_lora.common.errors import UserError

DEFAULT = "config/config.yaml"  # what the Snakefile names
SUMMARY = __doc__.removeprefix("plan: ")
EXAMPLE = """
  hybrid_lora plan --run 1.5b-gspo-hybrid
  hybrid_lora plan --run 1.5b-gspo-hybrid --model qwen2.5-7b --config 'objectives={gspo: {rollouts: transformers}}'
Works from shapes alone: no weights are loaded and nothing is fetched. Memory is by the formula of hybrid_lora.plan.memory,
compared with a GPU's by tests/benchmarks/plan_memory.py; hours and disk are estimates, at most what the settings allow.
"""
TEXT = {"description": SUMMARY, "epilog": EXAMPLE, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_command(subparsers):
    """The command itself."""
    _options(subparsers.add_parser("plan", help=SUMMARY, **TEXT))


def _options(parser):
    parser.add_argument("--run", dest="name", required=True, metavar="RUN", help="a run of the runs table")
    parser.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help=f"laid over {DEFAULT}, as for snakemake")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the files, as for snakemake")
    for column in ("model", "method", "objective", "budget"):
        parser.add_argument(f"--{column}", metavar=column.upper(), help=f"instead of the run's {column}")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help="h200 | h100 (80 GB) | a100 (80 GB) | a800; default h100")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="memory of one GPU, if it is another")
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N", help="length of a prompt; default 512")
    parser.add_argument(
        "--fill", type=float, default=1.0, metavar="SHARE", help="mean length as a share of the longest; default 1"
    )
    parser.set_defaults(run=_plan)


def _plan(arguments):
    from hybrid_lora.config import check_run, layers, load

    request = _request(arguments)
    base = Path.cwd()
    files = [DEFAULT, *(file for file in arguments.configfile if file != DEFAULT)]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(file))
    values = layers.merge(values, layers.command_line(arguments.config))
    config = load(values, files, base)
    run = _run(arguments, config)
    check_run(values, files, base, run)

    from hybrid_lora.config.allocations import Allocation
    from hybrid_lora.plan import architecture, text

    method, file = config.values["methods"][run.method], None
    shape = architecture.shape(run.model, config.values["models"][run.model], base)
    settings = config.values["allocation"]
    if method["placement"] == "criterion":
        file = base / Allocation(run.model, method["probe"], method["criterion"], settings["unit"], run.budget).path
        file = file.relative_to(base) if file.is_file() else None
    placement = "lora" if method["placement"] == "none" else method["placement"]
    trained = architecture.trained(shape, placement, settings, run.budget, file)
    for line in text.plan(config, run, shape, trained, request):
        print(line)


def _request(arguments):
    from hybrid_lora.plan.gpus import GIB, GPUS

    if arguments.gpu.lower() not in GPUS:
        raise UserError(f"--gpu: {arguments.gpu!r} is not known; allowed: {', '.join(GPUS)} (with --gpu-memory for another size)")
    hardware = GPUS[arguments.gpu.lower()]
    for option, value, least in (("--fill", arguments.fill, 0), ("--gpu-memory", arguments.gpu_memory, 0)):
        if value is not None and not least < value < float("inf"):
            raise UserError(f"{option}: is {value}; allowed: a number above {least}")
    if arguments.fill > 1:
        raise UserError(f"--fill: is {arguments.fill}; allowed: above 0 and at most 1")
    if arguments.prompt_tokens < 1:
        raise UserError(f"--prompt-tokens: is {arguments.prompt_tokens}; allowed: 1, 2, ...")
    memory = int(arguments.gpu_memory * GIB) if arguments.gpu_memory else hardware.memory
    found = {"gpu": arguments.gpu.lower(), "hardware": hardware, "memory": memory}
    return found | {"prompt": arguments.prompt_tokens, "fill": arguments.fill}


def _run(arguments, config):
    """The run, with what the options replace; UserError where they do not go together."""
    from hybrid_lora.config import words

    runs = {run.run: run for run in config.runs}
    if arguments.name not in runs:
        raise UserError(f"--run: run {words.choice(arguments.name, runs)}")
    change = {key: getattr(arguments, key) for key in ("model", "method", "objective") if getattr(arguments, key)}
    for key, name in change.items():
        if name not in config.values[f"{key}s"]:
            raise UserError(f"--{key}: {words.choice(name, config.values[f'{key}s'])}")
    run = dataclasses.replace(runs[arguments.name], **change)
    placement = config.values["methods"][run.method]["placement"]
    if placement == "none" and arguments.objective:
        raise UserError(f"--objective: method '{run.method}' trains nothing; give --method too")
    if placement != "none" and run.objective is None:
        raise UserError(f"--method: '{run.method}' is trained; give --objective too")
    if placement != "criterion" and arguments.budget:
        raise UserError(f"--budget: method '{run.method}' selects no modules by a criterion; give --method too")
    if placement == "criterion" and run.budget is None and not arguments.budget:
        raise UserError(f"--method: '{run.method}' selects modules by a criterion; give --budget too")
    budget = _budget(arguments.budget, config.values["allocation"]["unit"]) if arguments.budget else run.budget
    # What the table says of another method does not hold for this one.
    budget = budget if placement == "criterion" else None
    return dataclasses.replace(run, objective=run.objective if placement != "none" else None, budget=budget)


def _budget(text, unit):
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--budget: {text!r} is no number") from None
    if unit == "absolute":
        if value >= 1 and value.is_integer():
            return int(value)
        raise UserError(f"--budget: is {text}; allowed: 1, 2, ... (allocation.unit is absolute)")
    if 0 < value <= 1:
        return value
    raise UserError(f"--budget: is {text}; allowed: above 0 and at most 1")


def main(argv=None):
    """`python -m hybrid_lora.plan`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora plan", **TEXT)
    _options(parser)
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
