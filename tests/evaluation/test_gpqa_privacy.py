"""GPQA's authors ask that no example appear in plain text: an invented file in its columns goes through every command, and no
word of it is in what they print, in manifests, verdicts, metrics, comparisons or the overlap, not even where they fail."""

import json

import pyarrow.parquet as pq
import pytest

from hybrid_lora.contracts import benchmarks, corpus
from hybrid_lora.data import __main__ as data
from hybrid_lora.evaluation import __main__ as evaluation

MARK = "zyx"  # in every invented text
ROWS = [
    {
        "Record ID": f"rec{i}",
        "Question": f"Which zyx{i} quark of the invented zyxology turns zyx{i} zyxometers by a zyxunit in each of {i} phases?",
        "Correct Answer": f"zyxright {i}",
        **{f"Incorrect Answer {k}": f"zyxwrong {i} {k}" for k in (1, 2, 3)},
        "Explanation": "zyxbecause",
        "High-level domain": ("Physics", "Chemistry")[i % 2],
    }
    for i in range(4)
]
SAMPLING = {"run": "r", "seed": 0, "benchmark": "gpqa", "samples": 1, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}
SAMPLING |= {"prompt": "{Question}\n{options}", "backend": "transformers", "batch_size": 4, "dtype": "float32"}
GRADING = {"sandbox": "auto", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}


@pytest.fixture
def command(tmp_path):
    def run(main, name, settings, **files):
        options = [part for option, path in files.items() for part in (f"--{option}", str(tmp_path / path))]
        return main([name, *options, "--settings", json.dumps(settings)])

    return run


def test_no_word_of_a_question_is_told(command, tmp_path, model_folder, capfd):
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    made = {"name": "gpqa", "format": "gpqa", "data": "local", "problems": 4}
    shots = {"count": 1, "group": "High-level domain", "data": "local"}
    asked = {"benchmark": "gpqa.parquet", "model": model_folder, "state": "state"}
    assert command(data.main, "benchmark", made, source="raw.jsonl", out="gpqa.parquet") == 0
    assert command(evaluation.main, "complete", SAMPLING, out="c.parquet", **asked) == 0
    read = {"completions": "c.parquet", "benchmark": "gpqa.parquet"}
    assert command(evaluation.main, "grade", GRADING, out="g.parquet", **read) == 0
    assert command(evaluation.main, "metrics", {"k": 1, "samples": 1, "seed": 0}, grades="g.parquet", out="m.json", **read) == 0
    row = {"id": "r", "source": "science", "gold": None, "num_tokens": 1, "tests": None}
    messages = [{"role": "user", "content": ROWS[2]["Question"]}, {"role": "assistant", "content": "?"}]
    for name in ("t", "v"):
        corpus.write(tmp_path / f"{name}.parquet", [{**row, "messages": messages}])
    overlap = {"train": "t.parquet", "val": "v.parquet", "benchmarks": "gpqa.parquet", "out": "o.parquet", "summary": "o.json"}
    assert command(data.main, "overlap", {"n": 13}, **overlap) == 0
    assert json.loads((tmp_path / "o.json").read_text())["benchmarks"]["gpqa"]["found"] == 1

    # and where they fail
    for changes in (
        {"few_shot": {**shots, "count": 9}},
        {"few_shot": shots},
        {"problems": 3},
        {"subset": 9},
        {"version": "main-2"},
    ):
        files = {"source": "raw.jsonl", "examples": "raw.jsonl", "out": "x.parquet"}
        assert command(data.main, "benchmark", {**made, **changes}, **files) == 2
    for changes in ({"prompt": "{question_text}"}, {"prompt": "{Question.text}"}, {"few_shot": {**shots, "answer": "{gold}"}}):
        assert command(evaluation.main, "complete", {**SAMPLING, **changes}, out="x.parquet", **asked) == 2
    others = [{**row, "id": f"other{i}"} for i, row in enumerate(benchmarks.read(tmp_path / "gpqa.parquet")[0])]
    benchmarks.write(tmp_path / "gpqa.parquet", others, "gpqa")
    assert command(evaluation.main, "grade", GRADING, out="x.parquet", **read) == 2
    assert command(evaluation.main, "metrics", {"k": 1, "samples": 1, "seed": 0}, grades="g.parquet", out="x.json", **read) == 2

    said = "".join(capfd.readouterr())
    written = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    written |= {name: json.dumps(pq.read_table(tmp_path / name).to_pylist()) for name in ("c.parquet", "g.parquet", "o.parquet")}
    assert "rec2" in written["o.parquet"] and "error" in said and len(written) == 11  # 3 tables, 2 JSON files, 6 manifests
    assert MARK not in said
    assert [name for name, text in written.items() if MARK in text] == []
    assert MARK in json.dumps(others)  # the mark is there to be found
