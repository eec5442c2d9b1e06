"""Versions of the packages that change what a command computes, and only of those: they are part of a job's settings.

Which these are follows from what the command's code imports (see `code`), so an upgrade of math-verify reruns what grades
mathematics and one of matplotlib what draws. Packages that only carry data (pyarrow, numpy, datasets) are left out, and
so is a local label: 2.13.0+cpu and 2.13.0+cu130 are one version.
"""

import functools
import importlib.metadata
import platform
import re
from pathlib import Path

from hybrid_lora.common import code

# name that is imported -> distributions whose versions count
MATTER = {
    "torch": ("torch",),
    "transformers": ("transformers",),
    "tokenizers": ("tokenizers",),
    "peft": ("peft",),
    "trl": ("trl", "accelerate"),
    "vllm": ("vllm",),
    "math_verify": ("math-verify", "latex2sympy2-extended", "sympy"),
    "matplotlib": ("matplotlib",),
    "python": ("python",),  # named by a command's CHOICES where a model's programs are run
}


def used(module, settings, version):
    """{distribution: version} for a job of the command in `module`; version: name -> text or None where there is none."""
    names = [name for top in code.foreign(module, settings) for name in MATTER.get(top, ())]
    return {name: found.partition("+")[0] for name in names if (found := version(name))}


@functools.cache
def installed(name):
    """The version in this environment, None where it is not installed; of python: 3.11."""
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pinned(path):
    """A function like `installed` that reads the pins of a conda file, for jobs that run in the environment it describes."""
    pins = dict(re.findall(r"""^ +- "?([\w.-]+?)={1,2}([^\s";]+)""", Path(path).read_text(encoding="utf-8"), re.MULTILINE))
    return pins.get
