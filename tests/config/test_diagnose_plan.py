"""Probes derived from an entry by a seed or K, what `diagnose` asks for, and the mistakes it refuses."""

from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load, variants
from hybrid_lora.config.allocations import Allocation
from hybrid_lora.config.plan import Plan

REPO = Path(__file__).resolve().parents[2]
PROBE = "results/probe/demo/default"
RENAMED = {"default+seed1": {"corpus": "demo"}}


def plan(**changes):
    """The demo's plan with changes laid over: section=value."""
    files = ["config/config.yaml", "config/demo.yaml"]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    return Plan(load(layers.merge(values, changes), files, REPO), REPO)


def diagnose(**changes):
    return {"diagnose": changes}


def test_a_seed_changes_the_warmup_alone():
    ours = plan()
    entry, derived = ours.probe("default"), ours.probe("default+seed1")
    assert (entry["warmup"]["seed"], derived["warmup"]["seed"]) == (0, 1)
    assert {**derived, "warmup": {**derived["warmup"], "seed": 0}} == entry
    assert ours.warmup("default+seed1")["warmup"]["seed"] == 1
    assert ours.sensitivity("default+seed1") == ours.sensitivity("default")
    assert ours.adalora("default+seed1") != ours.adalora("default")


def test_a_seed_has_its_own_warmup_and_dumps():
    ours, base = plan(), "results/probe/demo/default+seed1"
    assert ours.dumps("demo", "default+seed1", "hybrid") == [f"{base}/sensitivity/chunk-00{i}.parquet" for i in (0, 1)]
    assert ours.measured_on("demo", "default+seed1", "hybrid") == [f"{base}/warmup/manifest.json"]
    assert ours.dumps("demo", "default+seed1", "alpha") == [f"{base}/warmup/manifest.json"]


@pytest.mark.parametrize(("number", "chunks"), [(5, 1), (10, 1), (11, 2), (40, 4)])
def test_partitions_read_the_dumps_of_their_entry(number, chunks):
    """The demo has 10 batches a chunk; a K that fills part of a chunk reads the whole file and takes its first batches."""
    ours, name = plan(), f"default+k{number}"
    assert ours.dumps("demo", name, "hybrid") == [f"{PROBE}/sensitivity/chunk-00{i}.parquet" for i in range(chunks)]
    assert ours.measured_on("demo", name, "hybrid") == [f"{PROBE}/warmup/manifest.json"]
    assert ours.measured_on("demo", name, "hybrid-4") == [f"{PROBE}/full-warmup/manifest.json"]
    expected = {"criterion": "hybrid", "model": "demo", "probe": name, "batches": number}
    assert ours.scores("demo", name, "hybrid") == expected
    assert ours.sensitivity(name) == ours.sensitivity("default")


def test_an_entrys_own_setting_is_the_entry():
    probes = plan().values["probes"]
    assert variants.name("default", probes, "seed", 0) == variants.name("default", probes, "k", 20) == "default"
    assert variants.name("default", probes, "seed", 20) == "default+seed20"


def test_an_entry_named_like_a_variant_is_itself():
    ours = plan(probes={"default+k5": {"corpus": "demo", "rank": 3}})
    assert ours.probe("default+k5")["rank"] == 3
    assert ours.dumps("demo", "default+k5", "alpha") == ["results/probe/demo/default+k5/warmup/manifest.json"]
    assert ours.probe("default+k5+seed1")["rank"] == 3


@pytest.mark.parametrize("name", ["other", "default+k", "default+k05", "default+seeds1", "+k5"])
def test_other_names_are_no_probes(name):
    with pytest.raises(KeyError):
        plan().probe(name)


def test_runs_keep_their_own_allocations():
    ours = plan()
    assert set(ours.allocations) == {"demo.default.hybrid.params-0.1"}
    assert [run.run for run in ours.figure2_runs()] == ["hybrid"]
    assert ours.run_allocation("hybrid") == ["results/allocation/demo.default.hybrid.params-0.1.json"]
    derived = [f"default+{end}" for end in ("seed1", "seed2", "k5", "k10", "k40")]
    assert ours.derived_probes() == derived
    extra = {f"demo.{name}.hybrid.params-0.1" for name in derived}
    assert set(ours.every_allocation) == set(ours.allocations) | extra
    assert ours.every_allocation["demo.default+k5.hybrid.params-0.1"].scores == "results/scores/demo/default+k5/hybrid.parquet"
    assert ours.allocation("demo.default+k5.hybrid.params-0.1") == ours.allocation("demo.default.hybrid.params-0.1")


@pytest.mark.parametrize(
    ("unit", "amount", "end"),
    [
        ("params", 0.1, "params-0.1"),
        ("modules", 1.0, "modules-1"),
        ("params", 0.1234567, "params-0.1234567"),
        ("params", 1e-7, "params-1e-07"),
        ("absolute", 86_535_232, "absolute-86535232"),
        ("absolute", 86_535_233, "absolute-86535233"),
        ("absolute", 1_000_000, "absolute-1000000"),
    ],
)
def test_amounts_that_differ_have_names_that_differ(unit, amount, end):
    assert Allocation("demo", "default", "hybrid", unit, amount).name == f"demo.default.hybrid.{end}"


def paths(value):
    """All paths in the settings of `report diagnose`."""
    if isinstance(value, dict | list):
        return {path for inner in (value.values() if isinstance(value, dict) else value) for path in paths(inner)}
    return {value} if str(value).startswith("results/") else set()


def test_settings_name_what_the_rule_gives():
    ours = plan(report=diagnose(stability=["hybrid", "lora-drop"], seeds=[0, 3], ratio=0.2))
    settings = ours.diagnose("demo")
    scores, allocations = ours.diagnose_scores("demo"), ours.diagnose_allocations("demo")
    assert paths(settings) == {*scores, *allocations}
    assert len(set(scores)) == len(scores)
    hybrid, drop = settings["stability"]
    assert [found["seed"] for found in drop["seeds"]] == [0, 3]
    assert drop["partitions"] == []  # lora-drop has no K
    assert [found["partitions"] for found in hybrid["partitions"]] == [5, 10, 20, 40]
    assert hybrid["partitions"][2]["allocation"] == "results/allocation/demo.default.hybrid.params-0.2.json"
    assert all(Path(path).stem in ours.every_allocation for path in allocations)


def test_one_seed_or_one_number_is_not_compared():
    ours = plan(report=diagnose(seeds=[1], partitions=[5]))
    assert ours.derived_probes() == ours.diagnose_allocations("demo") == []
    assert ours.diagnose_scores("demo")[0] == "results/scores/demo/default/perturbation.parquet"


MISTAKES = {
    "probe": (diagnose(probe="defualt"), {}, "report.diagnose.probe: probe 'defualt' is not known; allowed: default (did"),
    "stability": (diagnose(stability=["random"]), {}, "report.diagnose.stability: 'random' depends on neither"),
    "share": (diagnose(ratio=2), {}, "report.diagnose.ratio: is 2, must be a share, at most 1, as allocation.unit is params"),
    "rows for K": (
        diagnose(),
        {"corpora": {"demo": {"validation_rows": 200}}},
        "corpora.demo.validation_rows is 200, report.diagnose.partitions 40 * batch_size 8 needs 320 rows",
    ),
    "rows for the last chunk": (  # of 10 batches: K = 35 computes 40
        diagnose(partitions=[5, 35]),
        {"corpora": {"demo": {"validation_rows": 300}}},
        "corpora.demo.validation_rows is 300, report.diagnose.partitions 35, in whole chunks of 10 batches 40, * batch_size 8",
    ),
    "rows for P": (
        diagnose(),
        {"probes": {"default": {"perturbation": {"batch_size": 64}}}},
        "corpora.demo.validation_rows: is 512, probe 'default' needs batches * batch_size = 1280 rows",
    ),
    "chunks of P": (
        diagnose(),
        {"probes": {"default": {"perturbation": {"batches_per_chunk": 3}}}},
        "probes.default.perturbation.batches_per_chunk: is 3, must divide batches, 20",
    ),
    "name": (diagnose(), {"probes": RENAMED}, "probes.default+seed1: is what report.diagnose calls a variant"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_said_only_when_asked(mistake):
    report, changes, phrase = MISTAKES[mistake]
    ours = plan(report=report, **changes)  # everything else works on
    with pytest.raises(UserError) as caught:
        ours.diagnose_scores("demo")
    assert str(caught.value).startswith(phrase)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("unit", "ratio", "right"), [("absolute", 0.1, False), ("absolute", 5000, True), ("modules", 1, True)])
def test_the_ratio_is_in_the_allocations_unit(tmp_path, unit, ratio, right):
    table = tmp_path / "runs.tsv"
    table.write_text("run\tmodel\tmethod\tobjective\tbudget\tseed\nlora\tdemo\tlora\tgspo\t-\t0\n")
    ours = plan(report=diagnose(ratio=ratio), allocation={"unit": unit}, runs=str(table))
    if right:
        assert ours.allocation(f"demo.default+k5.hybrid.{unit}-{ratio}")["amount"] == ratio
        assert ours.diagnose_scores("demo")
    else:
        with pytest.raises(UserError, match=r"^report\.diagnose\.ratio: is 0\.1, must be a number of parameters"):
            ours.diagnose_scores("demo")


@pytest.mark.parametrize("overlay", ["tiny", "demo", "gsm8k"])
def test_our_configurations_can_be_diagnosed(overlay):
    files = ["config/config.yaml", f"config/{overlay}.yaml"]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    data = REPO.parent / "shared" / "data"
    if overlay == "gsm8k" and not data.is_dir():
        pytest.skip("the real data sets are not here")
    ours = Plan(load({**values, "data_dir": str(data)}, files, REPO), REPO)
    (model,) = ours.diagnosed_models()
    assert len(ours.diagnose_scores(model)) > 10
