"""Which runs are compared: by default those that differ in the method alone, and their groups of seeds; or as listed."""

from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load
from hybrid_lora.config.plan import Plan

REPO = Path(__file__).resolve().parents[2]


def plan(runs="config/demo-all.tsv", **extra):
    files = ["config/config.yaml", "config/demo.yaml"]
    values = {}
    for file in files:
        values = layers.merge(values, layers.read_yaml(REPO / file))
    return Plan(load(layers.merge(values, {"runs": runs, **extra}), files, REPO), REPO)


def test_default_pairs_differ_in_the_method_alone():
    found = plan()
    pairs = found.compared_pairs()
    runs = [pair for pair in pairs if set(pair) <= found.runs.keys()]
    assert ["hybrid", "lora"] not in runs and ["lora", "hybrid"] in runs  # the later against the earlier
    assert ["hybrid-seed1", "cot-seed1"] in runs and ["cot", "io"] in runs
    for a, b in runs:
        first, second = found.runs[a], found.runs[b]
        assert first.seed == second.seed and first.method != second.method
    assert len(runs) == len({frozenset(pair) for pair in runs}) == 15 + 1 + 1  # six methods of seed 0, cot and hybrid of 1 and 2


def test_groups_of_seeds():
    found = plan()
    assert found.seed_groups() == {
        "cot (3 seeds)": ["cot", "cot-seed1", "cot-seed2"],
        "hybrid (3 seeds)": ["hybrid", "hybrid-seed1", "hybrid-seed2"],
    }
    assert ["hybrid (3 seeds)", "cot (3 seeds)"] in found.compared_pairs()
    assert ["lora", "hybrid (3 seeds)"] in found.compared_pairs()


def test_listed_pairs():
    found = plan(report={"comparisons": {"pairs": [["hybrid", "full-ft"]]}})
    assert found.compared_pairs() == [["hybrid", "full-ft"], ["hybrid (3 seeds)", "full-ft"]]


def test_runs_of_other_objectives_are_not_paired(tmp_path):
    lines = ["run\tmodel\tmethod\tobjective\tbudget\tseed", "cot\tdemo\tcot\t-\t-\t0"]
    lines += ["a\tdemo\tlora\tgspo\t-\t0", "b\tdemo\tfull-ft\tgrpo\t-\t0"]
    (tmp_path / "runs.tsv").write_text("\n".join(lines) + "\n")
    assert plan(str(tmp_path / "runs.tsv")).compared_pairs() == [["a", "cot"], ["b", "cot"]]


def test_settings_name_files_and_kinds():
    settings = plan().comparisons()
    assert settings["runs"]["lora"]["gpqa"] == "results/evaluation/lora/gpqa/grades.parquet"
    assert {b["name"]: (b["kind"], b["k"], b["samples"]) for b in settings["benchmarks"]}["leetcode"] == ("code", 4, 4)
    assert settings["resamples"] == 10000 and len(plan().grades_files()) == 60


@pytest.mark.parametrize(
    ("pairs", "said"),
    [([["hybrid", "lorra"]], "run 'lorra'.*did you mean 'lora'"), ([["hybrid"]], "comparisons.pairs"), ([], "comparisons.pairs")],
)
def test_mistakes_are_one_line(pairs, said):
    with pytest.raises(UserError, match=said) as caught:
        plan(report={"comparisons": {"pairs": pairs}})
    assert "\n" not in str(caught.value)
