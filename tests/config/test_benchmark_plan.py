"""Benchmarks' versions, subsets and few-shot examples in the configuration: what jobs are told, what is refused before any."""

import json
from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.config import layers, load
from hybrid_lora.config.plan import Plan

REPO = Path(__file__).resolve().parents[2]


def plan(folder, **benchmarks):
    for name in ("problems", "examples"):
        (folder / f"{name}.jsonl").write_text("{}\n")
    values = layers.merge(layers.read_yaml(REPO / "config/config.yaml"), layers.read_yaml(REPO / "config/demo.yaml"))
    changed = {"data_dir": str(folder), "benchmarks": benchmarks}
    return Plan(load(layers.merge(values, changed), ["config/config.yaml", "config/demo.yaml"], REPO), REPO)


def test_nothing_is_added_where_nothing_is_asked(tmp_path):
    found = plan(tmp_path)
    assert set(found.benchmark("mmlu-pro")) == {"name", "format", "data", "generated", "problems"}
    assert "few_shot" not in found.completions("cot", "mmlu-pro") and found.local_examples("mmlu-pro") == []


def test_five_shot_mmlu_pro_from_a_file(tmp_path):
    found = plan(tmp_path, **{"mmlu-pro": {"few_shot": {"count": 5, "data": "examples.jsonl"}}})
    told = found.benchmark("mmlu-pro")["few_shot"]
    assert (told["count"], told["group"], told["data"]) == (5, "category", "local")
    assert found.local_examples("mmlu-pro") == [str(tmp_path / "examples.jsonl")]
    shown = found.completions("cot", "mmlu-pro")["few_shot"]
    assert shown == {"count": 5, "group": "category", "answer": "{cot_content}"}
    assert found.completions("io", "mmlu-pro")["few_shot"]["answer"] == "The answer is ({gold})."
    assert "few_shot" not in found.completions("cot", "gpqa")
    json.dumps(found.benchmark("mmlu-pro"))


def test_few_shot_from_the_hub(tmp_path):
    told = plan(tmp_path, **{"mmlu-pro": {"few_shot": {"count": 5}}}).benchmark("mmlu-pro")["few_shot"]
    assert told["data"] == "hub" and told["hub"]["split"] == "validation"


def test_version_and_subset(tmp_path):
    told = plan(tmp_path, leetcode={"version": "v0.2.0", "data": "problems.jsonl", "subset": 50}).benchmark("leetcode")
    assert (told["version"], told["subset"]) == ("v0.2.0", 50)


SHOTS = {"count": 1, "data": "examples.jsonl"}
MISTAKES = [
    ({"leetcode": {"version": "v9", "data": "problems.jsonl"}}, r"benchmarks.leetcode.version: .*'v9'.* v0.3.1"),
    ({"leetcode": {"version": "v0.1.0", "data": "problems.jsonl", "problems": 200}}, r"problems: is 200, version v0.1.0 has 175"),
    ({"gpqa": {"subset": 201}}, r"gpqa.subset: is 201, must be at most problems, 200"),
    ({"gpqa": {"subset": 0}}, r"gpqa.subset: is 0, must be at least 1"),
    ({"mmlu-pro": {"few_shot": {**SHOTS, "data": "nowhere.jsonl"}}}, r"few_shot.data: no such file: nowhere.jsonl"),
    ({"mmlu-pro": {"few_shot": {**SHOTS, "data": "generated"}}}, r"few_shot.data: is 'generated'"),
    ({"gpqa": {"few_shot": {**SHOTS, "answers": {"io": "x"}}}}, r"few_shot.answers: lacks prompt 'cot'; defined: io"),
    ({"gpqa": {"few_shot": {**SHOTS, "answers": {"io": "x", "cot": "{"}}}}, r"few_shot.answers.cot"),
    ({"gpqa": {"few_shot": {"count": 1, "answers": {"io": "x"}}}}, r"gpqa.few_shot.data: is missing"),
    ({"gpqa": {"few_shot": {**SHOTS, "data": "hub", "answers": {"io": "x"}}}}, r"gpqa.few_shot.hub: is missing"),
    ({"gpqa": {"few_shot": {**SHOTS, "shots": 5}}}, r"gpqa.few_shot.shots: unknown key"),
]


@pytest.mark.parametrize(("benchmarks", "said"), MISTAKES)
def test_mistakes_are_one_line(benchmarks, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        plan(tmp_path, **benchmarks)
    assert "\n" not in str(caught.value)
