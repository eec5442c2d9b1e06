"""Which packages' versions are part of a job, and which files run for a setting."""

import pytest

from hybrid_lora.common import code, packages
from hybrid_lora.contracts.benchmark_names import JUDGED

REPO = code.ROOT.parent


def used(command, settings, **versions):
    return packages.used(f"hybrid_lora.{command}", settings, versions.get)


EVERY = {"torch": "2.1.0+cpu", "transformers": "5.0", "peft": "0.1", "trl": "1.0", "accelerate": "1.1", "vllm": "0.3"}
EVERY |= {"math-verify": "0.9", "sympy": "1.1", "matplotlib": "3.0", "python": "3.11", "pyarrow": "20.0"}


@pytest.mark.parametrize(
    ("command", "settings", "names"),
    [
        ("evaluation.grade", {"kind": "math"}, {"math-verify", "sympy"}),
        ("evaluation.grade", {"kind": "choice"}, set()),
        ("evaluation.grade", {"kind": "code"}, {"python"}),
        ("evaluation.metrics", {}, set()),
        ("scores.aggregate", {}, set()),
        ("report.figure2", {}, {"matplotlib"}),
        ("evaluation.complete", {"backend": "transformers"}, {"torch", "transformers", "peft"}),
        ("evaluation.complete", {"backend": "vllm"}, {"torch", "transformers", "peft", "vllm"}),
        ("training.train", {"objective": {"algorithm": "sft"}}, {"torch", "transformers", "peft", "trl", "accelerate"}),
    ],
)
def test_only_what_the_command_computes_with(command, settings, names):
    assert set(packages.used(f"hybrid_lora.{command}", settings, EVERY.get)) == names


@pytest.mark.parametrize(("rollouts", "there"), [("transformers", False), ("vllm", True)])
def test_vllm_counts_where_it_makes_rollouts(rollouts, there):
    objective = {"algorithm": "gspo", "rollouts": rollouts}
    found = packages.used("hybrid_lora.training.train", {"objective": objective}, EVERY.get)
    assert ("vllm" in found) == there
    assert "math-verify" in found  # rewards are graded


def test_a_local_label_is_no_version():
    assert used("probe.warmup", {}, torch="2.1.0+cpu") == used("probe.warmup", {}, torch="2.1.0+cu130") == {"torch": "2.1.0"}


def test_pins_of_a_conda_file():
    version = packages.pinned(REPO / "envs/cpu.yaml")
    assert version("torch") and version("math-verify") and version("no-such-package") is None
    assert version("python").startswith("3.")


def test_installed():
    assert packages.installed("torch")[0].isdigit()
    assert packages.installed("no-such-package") is None


def files(command, settings=None):
    return {path.split("hybrid_lora/", 1)[1] for path in code.sources(f"hybrid_lora.{command}", settings)}


def test_a_setting_chooses_among_files():
    every = files("evaluation.grade")
    assert {"grading/math.py", "grading/choice.py", "grading/runner.py"} <= every
    math, choice = files("evaluation.grade", {"kind": "math"}), files("evaluation.grade", {"kind": "choice"})
    assert "grading/math.py" in math and not {"grading/choice.py", "grading/runner.py", "grading/sandbox.py"} & math
    assert "grading/choice.py" in choice and not {"grading/math.py", "grading/runner.py"} & choice
    assert math | choice < every
    sft = files("training.train", {"objective": {"algorithm": "sft"}})
    assert "objectives/sft.py" in sft and not [name for name in sft if name.startswith("grading/")]
    assert "evaluation/vllm_backend.py" not in files("evaluation.complete", {"backend": "transformers"})


def test_every_source_may_be_judged_by_the_graders_that_run_for_it():
    graders = {"math": "grading/math.py", "choice": "grading/choice.py", "code": "grading/runner.py"}
    for command, section in (("training.train", "objective"), ("probe.warmup_rl", "rl")):
        for sources in (["math"], ["science"], ["code"], ["math", "science"], ["math", "science", "code"]):
            found = files(command, {section: {"algorithm": "gspo", "sources": sources}})
            kinds = {kind for source in sources for kind in JUDGED[source]}
            assert {kind for kind, name in graders.items() if name in found} == kinds


def test_an_unknown_value_leaves_nothing_out():
    assert files("evaluation.grade", {"kind": "essay"}) == files("evaluation.grade")
