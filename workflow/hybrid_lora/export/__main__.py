"""export: a trained policy as an adapter folder or, merged, as a plain model folder, with tokenizer and model card."""

import argparse
import sys
from pathlib import Path

from hybrid_lora.common import cli

SUMMARY = __doc__.splitlines()[0].removeprefix("export: ")
EXAMPLE = """
  hybrid_lora export --run 1.5b-gspo-hybrid --merged --dtype bfloat16 --out exported/hybrid
writes a folder that vLLM, transformers and others load as any model. Merging is done in float32 and rounded once, at the end:
in float32 the logits are those of the adapter to 1e-6, in bfloat16 the folder is half as large and every weight off by up to
0.2 %. Without --merged the adapter itself is copied. Full fine-tuning gives a plain model folder either way. Results of
`evaluation` that are there go into the model card. --out must not exist: nothing is overwritten.
"""
TEXT = {"description": SUMMARY, "epilog": EXAMPLE, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_command(subparsers):
    """The command itself."""
    _options(subparsers.add_parser("export", help=SUMMARY, **TEXT))


def _options(parser):
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--run", dest="name", metavar="RUN", help="a run of the runs table that has been trained: results/training/RUN/policy"
    )
    which.add_argument("--policy", type=cli.folder, metavar="PATH", help="a policy folder, or its manifest.json")
    parser.add_argument("--model", type=cli.folder, metavar="PATH", help="folder of the base model; default: as in the manifest")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder to write; must not exist, or be empty")
    parser.add_argument("--merged", action="store_true", help="merge the adapter: a plain model folder")
    kinds = ("float32", "bfloat16")
    parser.add_argument("--dtype", choices=kinds, help="of a plain model folder's weights; default float32, which is exact")
    parser.add_argument("--license", metavar="ID", help="licence in the model card, e.g. apache-2.0; default: the base model's")
    parser.set_defaults(run=_export)


def _export(arguments):
    from hybrid_lora.export import folder

    folder.run(arguments)


def main(argv=None):
    """`python -m hybrid_lora.export`."""
    parser = argparse.ArgumentParser(prog="hybrid_lora export", **TEXT)
    _options(parser)
    return cli.run(parser, argv)


if __name__ == "__main__":
    sys.exit(main())
