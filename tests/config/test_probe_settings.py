"""Probes in the configuration: settings of their jobs, and mistakes that only some criteria make."""

from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load
from hybrid_lora.config.plan import Plan
from hybrid_lora.config.probing import SOURCES

REPO = Path(__file__).resolve().parents[2]


def plan(tmp_path, criterion="hybrid", **probe):
    """The demo's plan with one run by a criterion and a changed probe."""
    table = tmp_path / "runs.tsv"
    table.write_text(f"run\tmodel\tmethod\tobjective\tbudget\tseed\na\tdemo\t{criterion}\tgspo\t0.1\t0\n")
    files, values = ["config/config.yaml", "config/demo.yaml"], {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    values = layers.merge(values, {"runs": str(table), "probes": {"default": probe}})
    return Plan(load(values, files, REPO), REPO)


@pytest.mark.parametrize("criterion", SOURCES)
def test_a_criterion_asks_for_its_own_files_alone(tmp_path, criterion):
    ours = plan(tmp_path, criterion)
    files, kind = ours.dumps("demo", "default", criterion), SOURCES[criterion]
    assert bool(files) == (kind is not None)
    assert all(f"/{kind}" in file for file in files)
    settings = ours.scores("demo", "default", criterion)
    assert settings["criterion"] == criterion
    assert ("batches" in settings) == (kind in ("sensitivity", "full-sensitivity", "perturbation", "outputs"))


def test_numbers_of_batches_are_in_no_measurement(tmp_path):
    """So K can grow without a batch being measured again."""
    few, many = plan(tmp_path), plan(tmp_path, sensitivity={"partitions": 40}, perturbation={"batches": 40})
    for settings in ("sensitivity", "full_sensitivity", "perturbation"):
        assert getattr(few, settings)("default") == getattr(many, settings)("default")
    for criterion in ("hybrid", "hybrid-4", "perturbation"):
        old, new = few.dumps("demo", "default", criterion), many.dumps("demo", "default", criterion)
        assert new[: len(old)] == old and len(new) == 2 * len(old)


def test_a_warmup_by_reinforcement_learning(tmp_path):
    ours = plan(tmp_path, warmup={"objective": "gspo"})
    settings = ours.warmup("default")
    assert settings["warmup"]["objective"] == "rl"
    assert settings["rl"]["algorithm"] == "gspo" and settings["rl"]["group_size"] == 4
    assert not {"steps", "learning_rate", "validation"} & set(settings["rl"])
    assert settings["grading"] == ours.values["grading"]
    assert "default" in ours.warmed_up_by("rl") and "default+seed1" in ours.warmed_up_by("rl")
    assert not set(ours.warmed_up_by("nll"))
    supervised = plan(tmp_path)
    assert not {"rl", "grading"} & set(supervised.warmup("default"))
    assert "default" in supervised.warmed_up_by("nll")


MISTAKES = {
    "unknown objective": (
        "hybrid",
        {"warmup": {"objective": "gsop"}},
        "warmup.objective",
        "allowed: nll, grpo, gspo (did you mean",
    ),
    "supervised objective": ("hybrid", {"warmup": {"objective": "sft"}}, "warmup.objective", "allowed: nll, grpo, gspo"),
    "parts that do not divide": (
        "hybrid",
        {"warmup": {"device_batch_size": 5}},
        "warmup.device_batch_size",
        "must divide batch_size, 16",
    ),
    "chunks of perturbations": (
        "perturbation",
        {"perturbation": {"batches_per_chunk": 3}},
        "perturbation.batches_per_chunk",
        "must divide batches, 20",
    ),
    "no rank to prune": (
        "adalora",
        {"adalora": {"initial_rank": 16}},
        "adalora.initial_rank",
        "must be more than target_rank, 16",
    ),
    "no step to prune in": ("adalora", {"adalora": {"final_share": 0.95}}, "adalora.final_share", "no step is left to prune in"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(tmp_path, name):
    criterion, probe, key, phrase = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        plan(tmp_path, criterion, **probe)
    message = str(caught.value)
    assert f"probes.default.{key}: " in message and phrase in message and "\n" not in message
    if criterion != "hybrid":  # another criterion does not look there
        plan(tmp_path, "hybrid", **probe)


def test_too_few_validation_rows_for_a_perturbation(tmp_path):
    with pytest.raises(
        UserError, match=r"corpora\.demo\.validation_rows: is 512, probe 'default' needs batches \* batch_size = 800"
    ):
        plan(tmp_path, "perturbation", perturbation={"batches": 100})
