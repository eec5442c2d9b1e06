"""The benchmark command with few-shot examples from a file of the user's own: what is kept, what is refused."""

import json

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark


def row(number, category="law", **more):
    base = {"question_id": number, "question": f"Q{number}?", "options": ["x", "y", "z"], "answer": "B", "answer_index": 1}
    return {**base, "cot_content": "", "category": category, "src": "s", **more}


def rows_file(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(folder, rows, examples, **few_shot):
    problems = rows_file(folder, "problems.jsonl", rows)
    path = rows_file(folder, "examples.jsonl", examples)
    settings = {"name": "mmlu-pro", "format": "mmlu-pro", "data": "local", "problems": len(rows)}
    settings["few_shot"] = {"count": 2, "group": "category", "data": "local", **few_shot}
    benchmark.run(settings, folder / "out.parquet", problems, path)
    return benchmarks.read(folder / "out.parquet")[0], benchmarks.about(folder / "out.parquet")["examples"]


WORKED = [row(i, c, cot_content=f"A: Let's think. Law {i}.") for i, c in ((7, "law"), (8, "law"), (9, "math"), (10, "math"))]


def test_examples_travel_with_the_benchmark(tmp_path):
    rows, examples = make(tmp_path, [row(1), row(2, "math")], WORKED)
    assert [example["id"] for example in examples] == ["7", "8", "9", "10"] and len(rows) == 2
    assert examples[0]["cot_content"] == "Let's think. Law 7." and examples[0]["gold"] == "B"
    inputs = json.loads((tmp_path / "out.parquet.manifest.json").read_text())["inputs"]
    assert set(inputs) == {"source", "examples"}
    assert make(tmp_path, [row(1)], WORKED, count=0)[1] == []


@pytest.mark.parametrize(
    ("examples", "few_shot", "said"),
    [
        ([*WORKED, row(1)], {}, "example '1' is a problem of the benchmark"),
        (WORKED[:1], {}, "has 1 examples with category 'law', settings.few_shot.count is 2"),
        (WORKED, {"group": "subject"}, "settings.few_shot.group is 'subject', which is no column"),
        (WORKED[:1], {"group": None}, "has 1 examples, settings.few_shot.count is 2"),
        (WORKED, {"count": -1}, "settings.few_shot: count is -1"),
        (WORKED, {"data": "generated"}, "data is missing or 'generated'"),
        ([{**WORKED[0], "answer": "Z"}], {}, "examples.jsonl: row 1: answer is 'Z'"),
    ],
)
def test_refusals_are_one_line(examples, few_shot, said, tmp_path):
    with pytest.raises(UserError) as caught:
        make(tmp_path, [row(1)], examples, **few_shot)
    assert said in str(caught.value) and "\n" not in str(caught.value) and "Q1?" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()
