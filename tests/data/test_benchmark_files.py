"""Files of every kind, damaged ones, and GPQA's, of which no text may be said; all of it invented."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmark_names, benchmarks
from hybrid_lora.data import __main__ as cli
from hybrid_lora.data import benchmark, benchmark_formats

MATH = {"problem": "p", "answer": "1", "unique_id": "u1"}


def make(folder, format, data, problems, **more):
    out = folder / "out.parquet"
    benchmark.run({"name": format, "format": format, "data": str(data), "problems": problems, **more}, out)
    return benchmarks.read(out)[0], json.loads((folder / "out.parquet.manifest.json").read_text())


def rows_file(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


HALF = b"".join(json.dumps({**MATH, "unique_id": f"u{i}", "problem": "p" * 50}).encode() + b"\n" for i in range(200))
DAMAGED = {
    "half a jsonl": ("a.jsonl", HALF[: len(HALF) // 2], "line 101: not JSON|has 100 problems"),
    "half, at a line's end": ("a.jsonl", HALF[: HALF.index(b"\n", len(HALF) // 2) + 1], r"has \d+ problems, .* expects 200"),
    "half a gzip": ("a.jsonl.gz", gzip.compress(HALF)[:300], "truncated or damaged gzip"),
    "damaged gzip": (
        "a.jsonl.gz",
        gzip.compress(HALF)[:100] + b"x" * 50 + gzip.compress(HALF)[150:],
        "truncated or damaged gzip",
    ),
    "half a json": ("a.json", b"[" + HALF.replace(b"\n", b",\n")[:9000], "not JSON"),
    "half a csv": ("a.csv", b'problem,answer,unique_id\n"p",1,u1\n"half a te', "not a CSV file, or cut off"),
    "a csv row cut": ("a.csv", b"problem,answer,unique_id\np,1,u1\np,1", "row 2 has fewer fields than the header"),
    "half a surrogate": (
        "a.jsonl",
        b'{"problem": "\\ud800", "answer": "1", "unique_id": "u"}\n',
        "line 1: a text holds half of a",
    ),
    "deep": ("a.json", b"[" * 200_000, "nested too deeply"),
    "empty answer": ("a.jsonl", json.dumps({**MATH, "answer": " "}).encode() + HALF[HALF.index(b"\n") :], "'answer' is empty"),
    "null answer": (
        "a.jsonl",
        json.dumps({**MATH, "answer": None}).encode() + HALF[HALF.index(b"\n") :],
        "'answer' is a NoneType",
    ),
    "empty question": (
        "a.jsonl",
        json.dumps({**MATH, "problem": "", "unique_id": "u0"}).encode() + HALF[HALF.index(b"\n") :],
        "row 1 has no question",
    ),
}


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_one_line_and_write_nothing(name, data, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, "math-500", path, 200)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.parquet").exists()


def test_whole_surrogate_pairs_and_byte_order_marks_are_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"problem": "\\ud83d\\ude00", "answer": "1", "unique_id": "u"}\n')
    assert make(tmp_path, "math-500", path, 1)[0][0]["problem"] == "\U0001f600"


# --- GPQA: no text of a question may appear anywhere but in the benchmark file itself. All of this is invented.
WORDS = "zyxqutterly invented quarklike zoologist question"
GPQA = {
    "Record ID": "rec1",
    "Question": f"Which {WORDS}?",
    "Correct Answer": "the zyxright one",
    **{f"Incorrect Answer {i}": f"the zyxwrong one {i}" for i in (1, 2, 3)},
    "Explanation": "zyxbecause",
    "High-level domain": "Physics",
}
SECRET_FILES = {
    "good": [GPQA],
    "no record id": [{k: v for k, v in GPQA.items() if k != "Record ID"}],
    "no correct answer": [{**GPQA, "Correct Answer": None}],
    "empty answer": [{**GPQA, "Incorrect Answer 2": " "}],
    "twice": [GPQA, GPQA],
    "mixed types": [{**GPQA, "Explanation": 1}, {**GPQA, "Record ID": "rec2"}],
    "ragged": [GPQA, {**{k: v for k, v in GPQA.items() if k != "Explanation"}, "Record ID": "rec2"}],
    "question as a list": [{**GPQA, "Question": [WORDS]}],
    "header lost": [{value: value for value in GPQA.values()}],
}


@pytest.mark.parametrize("format", ["gpqa", "mmlu-pro", "math-500", "aime", "leetcode"])
@pytest.mark.parametrize("rows", SECRET_FILES.values(), ids=SECRET_FILES.keys())
def test_nothing_of_a_gpqa_question_is_said(rows, format, tmp_path, capfd):
    """Not even where the file is damaged, or read as another format by mistake."""
    path = rows_file(tmp_path, rows)
    settings = {"name": "gpqa", "format": format, "data": str(path), "problems": len(rows)}
    status = cli.main(["benchmark", "--settings", json.dumps(settings), "--out", str(tmp_path / "out.parquet")])
    assert status == (0 if rows == [GPQA] and format == "gpqa" else 2)
    said = "".join(capfd.readouterr())
    assert said.count("\n") == 1
    for beside in tmp_path.glob("*.json"):
        said += beside.read_text()
    assert "zyx" not in said and "invented" not in said


def test_half_a_gpqa_csv_says_nothing_of_a_question(tmp_path, capfd):
    path = tmp_path / "gpqa.csv"
    path.write_text(",".join(GPQA) + "\n" + ",".join(f'"{value}"' for value in GPQA.values())[:-40])
    settings = {"name": "gpqa", "format": "gpqa", "data": str(path), "problems": 1}
    assert cli.main(["benchmark", "--settings", json.dumps(settings), "--out", str(tmp_path / "out.parquet")]) == 2
    assert "zyx" not in (said := capfd.readouterr().err) and said.count("\n") == 1


def test_gpqa_settings_name_main_and_diamond():
    assert benchmark_names.VERSIONS["gpqa"] == {"diamond": 198, "main": 448, "extended": 546}
    assert benchmark_formats.REQUIRED["gpqa"].keys() <= GPQA.keys()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "a.json.gz", "a.jsonl.gz", "a.csv.gz", "A.JSONL"])
def test_every_kind_of_file_gives_the_same_benchmark(name, tmp_path):
    rows = [{**GPQA, "Record ID": f"rec{i}", "Explanation": 'x,\n"y" €'} for i in range(3)]
    path, kind = tmp_path / name, name.lower().removesuffix(".gz")
    if kind.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = io.StringIO(newline="")
        if kind.endswith(".csv"):
            writer = csv.DictWriter(text, GPQA)
            writer.writeheader()
            writer.writerows(rows)
        else:
            text.write(json.dumps(rows) if kind.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows))
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found, _ = make(tmp_path, "gpqa", path, 3)
    expected, _ = make(tmp_path, "gpqa", rows_file(tmp_path, rows, "expected.jsonl"), 3)
    assert found == expected and found[0]["Explanation"] == rows[0]["Explanation"]
