"""The environments agree: conda files with their locks, the two locks with each other, and no CUDA in the CPU one."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ENVS = Path(__file__).resolve().parents[2] / "envs"


def pins(name):
    """{package: set of pinned versions} of a lock."""
    found = {}
    for line in lines(name):
        match = re.fullmatch(r"([a-z0-9-]+)==([^\s;]+)( ; .+)?", line)
        assert match, f"{name}.lock: {line!r} is not a pin"
        found.setdefault(match[1], set()).add(match[2])
    return found


def lines(name):
    return [line for line in (ENVS / f"{name}.lock").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_conda_file_holds_the_lock(name):
    dependencies = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": lines(name)}, "run `make conda`"


def test_cpu_lock_has_no_cuda():
    assert not [name for name in pins("cpu") if re.match(r"nvidia|cuda|triton|vllm", name)]


def test_locks_agree_but_for_numpy():
    cpu, gpu = pins("cpu"), pins("gpu")
    # envs/gpu.in says why numpy is older below Python 3.13.
    assert [name for name in cpu if gpu.get(name) != cpu[name]] == ["numpy"]
    assert cpu["numpy"] < gpu["numpy"]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_top_level_pins_are_in_the_lock(name):
    locked = pins(name)
    for source in (ENVS / "base.in", ENVS / f"{name}.in"):
        for package, version in re.findall(r"^([\w-]+)==([\w.]+)", source.read_text(), re.MULTILINE):
            assert version in locked[package]


def conda(name):
    """(Python's version, what comes from conda beside it, what pip installs) of a conda file."""
    *own, last = yaml.safe_load((ENVS / f"{name}.yaml").read_text())["dependencies"]
    (python,) = [match[1] for match in map(re.compile(r"python=([\d.]+)").fullmatch, own) if match]
    return python, {entry.split("=")[0] for entry in own} - {"python"}, last["pip"]


def resolved(requirements, python):
    """{package: version} that pip picks among pins with markers, on Linux with this Python."""
    place = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": f"{python}.0" if python.count(".") == 1 else python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = {}
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate(place):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==" and "*" not in specifier.version, requirement
            assert requirement.name not in found, f"{requirement.name} is pinned twice for Python {python}"
            found[requirement.name] = specifier.version
    return found


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_conda_resolves_to_the_lock_s_versions(name):
    python, beside, listed = conda(name)
    assert beside == {"pip"}, "a package of conda's could shadow one of the lock"
    assert resolved(listed, python) == resolved(lines(name), python)
    assert {"torch", "transformers", "peft", "trl", "snakemake"} <= resolved(listed, python).keys()


def test_this_environment_is_one_of_the_locks():
    """What the tests run with is what the conda environment of the same Python would hold."""
    import sys

    installed = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = "gpu" if "nvidia-cudnn-cu13" in installed or "vllm" in installed else "cpu"
    wanted = resolved(lines(name), here)
    other = {p: (installed[p], v) for p, v in wanted.items() if p in installed and installed[p].split("+")[0] != v.split("+")[0]}
    assert other == {}
