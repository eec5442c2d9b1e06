"""The benchmark command: generated and real files in the same columns, golds, GPQA's shuffle, refusals in one line."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hybrid_lora
from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FILES = {
    "math-500": ("math500/test.jsonl.gz", 500),
    "aime": ("aime/aime24_qwen.jsonl.gz", 30),
    "mmlu-pro": ("mmlu_pro/test.jsonl.gz", 12032),
    "leetcode": ("leetcode/v0.3.1-test.jsonl.gz", 228),
}
OTHERS = [
    ("aime", "aime/aime25_harness.jsonl.gz", 30),
    ("aime", "aime/aime_historic_deepscaler.jsonl.gz", 975),
    ("leetcode", "leetcode/v0.2.0-train.jsonl.gz", 1890),
]
GPQA = [  # the columns of the hub's CSV file that we use
    "Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3",
    "Subdomain", "High-level domain",
]  # fmt: skip
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is absent")


def make(out, format, data, problems, **more):
    benchmark.run({"name": format, "format": format, "data": str(data), "problems": problems, **more}, out)
    return benchmarks.read(out)


def generated(out, format, problems=30, seed=0):
    return make(out, format, "generated", problems, generated={"seed": seed})


def columns(path):
    schema = pq.read_schema(path)
    return {name: schema.field(name).type for name in schema.names}


@needs_real
@pytest.mark.parametrize("format", FILES)
def test_generated_rows_have_the_real_file_s_columns_and_types(format, tmp_path):
    name, count = FILES[format]
    rows, kind = make(tmp_path / "real.parquet", format, REAL / name, count)
    assert len(rows) == count
    made, made_kind = generated(tmp_path / "made.parquet", format)
    assert kind == made_kind == benchmarks.KINDS[format]
    expected = columns(tmp_path / "real.parquet")
    if format == "mmlu-pro":  # the hub has this column too, the file at hand was rebuilt without it
        expected["cot_content"] = pa.string()
    assert columns(tmp_path / "made.parquet") == expected
    assert len({row["id"] for row in made}) == 30


@needs_real
@pytest.mark.parametrize("format, name, count", OTHERS)
def test_other_real_variants_load(format, name, count, tmp_path):
    rows, _ = make(tmp_path / "real.parquet", format, REAL / name, count)
    assert len({row["id"] for row in rows}) == count
    if format == "leetcode":
        assert all(row["tests"]["test"].startswith("def check(candidate)") for row in rows)
    else:
        assert all(row["gold"] == str(int(row["answer"])) for row in rows)


@needs_real
def test_mmlu_pro_letter_wins_over_its_index(tmp_path):
    rows, _ = make(tmp_path / "real.parquet", "mmlu-pro", REAL / FILES["mmlu-pro"][0], 12032)
    row = next(row for row in rows if row["id"] == "3983")
    assert row["gold"] == row["answer"] != "ABCDEFGHIJ"[row["answer_index"]]
    assert {len(row["options"]) for row in rows} == set(range(3, 11))


def test_generated_gpqa_has_the_written_down_columns(tmp_path):
    rows, _ = generated(tmp_path / "g.parquet", "gpqa", 100)
    found = columns(tmp_path / "g.parquet")
    assert list(found) == [*GPQA, "id", "question", "options", "gold"]
    assert all(kind == pa.string() for name, kind in found.items() if name != "options")
    for row in rows:
        answers = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        assert sorted(row["options"]) == sorted(answers) and len(set(answers)) == 4
        assert row["options"]["ABCD".index(row["gold"])] == row["Correct Answer"]
    letters = [row["gold"] for row in rows]
    assert all(letters.count(letter) > 10 for letter in "ABCD")


def test_gpqa_letters_depend_on_the_record_alone(tmp_path):
    rows, _ = generated(tmp_path / "g.parquet", "gpqa", 20)
    raw = [{name: row[name] for name in GPQA} for row in rows]
    with open(tmp_path / "gpqa.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, GPQA)
        writer.writeheader()
        writer.writerows(reversed(raw))
    again, _ = make(tmp_path / "c.parquet", "gpqa", tmp_path / "gpqa.csv", 20)
    assert again == rows[::-1]


def test_generated_mmlu_pro_has_three_to_ten_options_and_right_letters(tmp_path):
    rows, _ = generated(tmp_path / "m.parquet", "mmlu-pro", 150)
    assert {len(row["options"]) for row in rows} == set(range(3, 11))
    assert all("ABCDEFGHIJ"[row["answer_index"]] == row["gold"] for row in rows)


def test_generated_aime_has_three_digit_answers_and_canonical_golds(tmp_path):
    rows, _ = generated(tmp_path / "a.parquet", "aime")
    assert all(len(row["answer"]) == 3 and row["gold"] == row["answer"].lstrip("0") for row in rows)
    assert {row["problem"].count("+") for row in rows} == {4, 5}


def test_same_seed_same_bytes_and_a_manifest(tmp_path):
    for name in "ab":
        generated(tmp_path / f"{name}.parquet", "leetcode", 50, seed=3)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    manifest = json.loads((tmp_path / "a.parquet.manifest.json").read_text())
    assert manifest["stage"] == "data.benchmark" and manifest["problems"] == 50
    assert "hybrid_lora/data/generated/programs.py" in manifest["code"]


MATH = {"problem": "p", "answer": "1", "unique_id": "u1"}
MMLU = {"question_id": 1, "question": "q", "options": ["a", "b", "c"], "answer": "A", "category": "c"}
SECRET = "a question that must not be shown"
RECORD = {**dict.fromkeys(GPQA, SECRET), "Record ID": "rec1"}
BAD = {
    "missing column": ("math-500", [{"problem": "p", "unique_id": "u"}], 1, "row 1: column 'answer' is missing"),
    "wrong type": ("math-500", [{**MATH, "answer": 1}], 1, "row 1: column 'answer' is a int, format math-500 needs str"),
    "duplicate": ("math-500", [MATH, MATH], 2, "id 'u1' stands in rows 1 and 2"),
    "count": ("math-500", [MATH], 500, "has 1 problems, benchmarks.math-500.problems expects 500"),
    "aime text": ("aime", [{"problem": "p", "answer": "x+1"}], 1, "row 1: answer is 'x\\+1', allowed in format aime"),
    "aime too big": ("aime", [{"problem": "p", "answer": "1000"}], 1, "a whole number from 0 to 999"),
    "options": ("mmlu-pro", [{**MMLU, "options": ["a", "b"]}], 1, "'options' has 2 entries"),
    "letter": ("mmlu-pro", [{**MMLU, "answer": "D"}], 1, "answer is 'D', allowed: a letter from A to C"),
    "mixed types": ("math-500", [{**MATH, "level": 1}, {**MATH, "unique_id": "v", "level": SECRET}], 2, "column 'level' holds"),
    "ragged": ("math-500", [{**MATH, "level": 1}, {**MATH, "unique_id": "v"}], 2, "row 2 has no column 'level'"),
    "gpqa null": ("gpqa", [{**RECORD, "Incorrect Answer 2": None}], 1, "row 1: column 'Incorrect Answer 2' is a NoneType"),
    "gpqa twice": ("gpqa", [RECORD, RECORD], 2, "id 'rec1' stands in rows 1 and 2"),
    "problems": ("math-500", [MATH], 0, "problems is 0, allowed: a whole number of at least 1"),
    "format": ("poetry", [MATH], 1, "format is 'poetry', allowed: math-500, aime, mmlu-pro, gpqa, leetcode"),
}


@pytest.mark.parametrize("format, rows, problems, message", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_writes_nothing(format, rows, problems, message, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path / "out.parquet", format, path, problems)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def hub_command(tmp_path, repo):
    """Run the command with data: hub in a process of its own that cannot reach the hub."""
    hub = {"repo": str(repo), "revision": "main", "config": "default", "split": "test"}
    settings = {"name": "local", "format": "math-500", "data": "hub", "hub": hub, "problems": 2}
    command = [sys.executable, "-m", "hybrid_lora.data", "benchmark", "--settings", json.dumps(settings)]
    root = Path(hybrid_lora.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*command, "--out", str(tmp_path / "o.parquet")], env=environment, capture_output=True, text=True)


def test_data_sets_load_through_the_hub_s_library(tmp_path):
    """The library reads a folder in the hub's layout the same way, so this runs without a network."""
    (tmp_path / "repo").mkdir()
    rows = [MATH, {**MATH, "unique_id": "u2"}]
    (tmp_path / "repo" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = hub_command(tmp_path, tmp_path / "repo")
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in benchmarks.read(tmp_path / "o.parquet")[0]] == ["u1", "u2"]
    assert json.loads((tmp_path / "o.parquet.manifest.json").read_text())["hub_commit"] is None


def test_an_unreachable_hub_is_one_line(tmp_path):
    done = hub_command(tmp_path, "nobody/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("hybrid_lora: error: hub data set nobody/nothing (default, test, revision main): cannot be")
    assert done.stderr.count("\n") == 1
