"""The environments agree: conda files with their locks, the two locks with each other, and no CUDA in the CPU one."""

import re
from pathlib import Path

import pytest
import yaml

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
