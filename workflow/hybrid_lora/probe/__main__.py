"""probe: train the probes that criteria need and dump what they measure per batch."""

import argparse
import importlib
import sys
from pathlib import Path

from hybrid_lora.common import cli, code, state

# command -> (module, what it does); each `run` takes (settings, model, train, out, state)
TRAININGS = {
    "warmup": ("warmup", "train the SVD-LoRA branches alone (Eq. 7) on next-token loss"),
    "warmup-rl": ("warmup_rl", "train them by GRPO or GSPO"),
    "adalora": ("adalora", "train PEFT's AdaLoRA and write the rank each module keeps"),
    "autolora": ("autolora", "learn weights on LoRA branches by AutoLoRA's bilevel scheme (Eq. 6, 8)"),
    "full-warmup": ("full_warmup", "full fine-tuning that hybrid-4 starts from"),
}
# the same for dumps of one chunk of validation batches; `run` takes (settings, model, warmup, val, chunk, out, state)
MEASUREMENTS = {
    "sensitivity": ("sensitivity", "gradients of e under two complementary masks (Algorithm 1, Eq. 10-12)"),
    "perturbation": ("perturbation", "change of the loss without each module's branch (Eq. 9)"),
    "full-sensitivity": ("full_sensitivity", "mean |w * grad w| after full-warmup (hybrid-4)"),
}


def add_commands(subparsers):
    """The stage's commands."""
    for name, (module, summary) in TRAININGS.items():
        training = _command(subparsers, name, _train, module, summary, ["train"], ["model"])
        if name == "warmup-rl":
            training.add_argument("--workers", type=int, default=1, help="programs graded at the same time")
    for name, (module, summary) in MEASUREMENTS.items():
        dump = _command(subparsers, name, _measure, module, summary, ["val"], ["model", "warmup"])
        dump.add_argument("--chunk", type=int, required=True, help="which chunk of batches, from 0")
    outputs = "energy of the branches' outputs on sampled training rows (LoRA-drop)"
    _command(subparsers, "outputs", _outputs, "outputs", outputs, ["train"], ["model", "warmup"])


def _command(subparsers, name, run, module, summary, paths, folders):
    parser = cli.command(subparsers, name, run, summary, paths=paths, folders=folders, outputs=["out"])
    parser.add_argument("--state", type=Path, required=True, metavar="PATH", help="folder for resumable state")
    parser.set_defaults(module=module)
    return parser


def _train(arguments):
    module = importlib.import_module(f"hybrid_lora.probe.{arguments.module}")
    extra = {"workers": arguments.workers} if "workers" in arguments else {}
    inputs = {"model": arguments.model / "manifest.json", "train": arguments.train}
    closure = code.sources(module.ENTRY, arguments.settings)
    if state.published(arguments.state, [arguments.out / "manifest.json"], arguments.settings, inputs, closure):
        return
    module.run(arguments.settings, arguments.model, arguments.train, arguments.out, arguments.state, **extra)


def _measure(arguments):
    module = importlib.import_module(f"hybrid_lora.probe.{arguments.module}")
    folders = arguments.model, arguments.warmup
    module.run(arguments.settings, *folders, arguments.val, arguments.chunk, arguments.out, arguments.state)


def _outputs(arguments):
    from hybrid_lora.probe import outputs

    folders = arguments.model, arguments.warmup
    outputs.run(arguments.settings, *folders, arguments.train, arguments.out, arguments.state)


def main(argv=None):
    """`python -m hybrid_lora.probe`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora probe", description=__doc__)
    add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
