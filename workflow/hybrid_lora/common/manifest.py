"""Manifests: what an artifact was made from, so that copied results can be checked and explained without `.snakemake/`.

A file F has `F.manifest.json` beside it; a directory artifact holds `manifest.json`. Hashes are SHA-256. A manifest holds a
hash of itself too, so that a damaged one is told from one that says something else.
"""

import functools
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file, sha256_json, write_json

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "vllm", "math-verify", "pyarrow", "matplotlib", "snakemake")
_BEGAN = time.time()


def describe(stage, settings, inputs, code, outputs=(), **extra):
    """The manifest of one artifact as a dict.

    stage: dotted name of the command; settings: its resolved sub-configuration; inputs: {name: path or list of paths};
    code: paths of the Python files it runs; outputs: paths of the files whose hashes are recorded.
    """
    outputs = [Path(path) for path in outputs]
    files = {name: [paths] if isinstance(paths, str | os.PathLike) else list(paths) for name, paths in inputs.items()}
    about = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "settings": settings,
        "settings_sha256": sha256_json(settings),
        "inputs": {name: {str(p): sha256_file(p) for p in paths} for name, paths in files.items()},
        "code": {code_name(p): sha256_file(p) for p in sorted(map(str, code))},
        "outputs": {path.name: sha256_file(path) for path in outputs},
        "sizes": {path.name: path.stat().st_size for path in outputs},
        "packages": packages(),
        "python": platform.python_version(),
        "git_commit": git_commit(),
        "device": device(),
        "wall_s": round(time.time() - _BEGAN, 3),
        "peak_memory_mb": peak_memory_mb(),
        **extra,
    }
    return {**about, "sha256": seal(about)}


def seal(about):
    """SHA-256 of a manifest without its own key `sha256`, the same before it is written and after it is read."""
    rest = {key: value for key, value in about.items() if key != "sha256"}
    return sha256_json(json.loads(json.dumps(rest)))


def write_beside(artifact, stage, settings, inputs, code, **extra):
    """Write `<artifact>.manifest.json` for a finished file."""
    write_json(f"{artifact}.manifest.json", describe(stage, settings, inputs, code, [artifact], **extra))


def tells(path, settings, inputs, code):
    """Whether the manifest at `path` exists, is whole and tells of these settings, inputs and code, as for `describe`."""
    try:
        about = read_json(path)
        files = {name: [paths] if isinstance(paths, str | os.PathLike) else list(paths) for name, paths in inputs.items()}
        return (
            about["sha256"] == seal(about)
            and about["settings_sha256"] == sha256_json(settings)
            and about["inputs"] == {name: {str(p): sha256_file(p) for p in paths} for name, paths in files.items()}
            and about["code"] == {code_name(p): sha256_file(p) for p in sorted(map(str, code))}
        )
    except (UserError, KeyError, TypeError):
        return False


@functools.cache
def code_name(path):
    """A Python file's name in manifests: its path from the package on, wherever (and in whatever folder) the checkout lies."""
    parts = Path(path).parts[::-1]
    return "/".join(parts[parts.index("hybrid_lora") :: -1]) if "hybrid_lora" in parts else Path(path).name


@functools.cache
def packages():
    """Versions of the installed packages that results depend on, whether or not they are imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit():
    """Commit of the checkout this package lies in (with `-dirty`), or None outside a git checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def device():
    """Name of the device in use: the GPU where torch is loaded and sees one, else the processor's architecture."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()})"


def peak_memory_mb():
    """Peak resident memory of this process and of its largest child, in MiB; GPU memory is recorded apart by stages."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(own, child) / 1024, 1)
