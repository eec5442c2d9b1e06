"""Published versions, declared subsets, LaTeX mended, repeated problems; real files where they are at hand."""

import json
import random
from pathlib import Path

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import benchmarks
from hybrid_lora.data import benchmark

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is absent")
MATH = {"problem": "p", "answer": "1", "unique_id": "u1"}
META = {"query": "Add. Please complete the following python code precisely:", "difficulty": "Hard", "question_title": "Add."}
PROGRAM = {"task_id": "add", "prompt": "", "completion": "c", "entry_point": "e", "test": "t"}


def make(folder, format, data, problems, **more):
    out = folder / "out.parquet"
    benchmark.run({"name": format, "format": format, "data": str(data), "problems": problems, **more}, out)
    return benchmarks.read(out)[0], json.loads((folder / "out.parquet.manifest.json").read_text())


def rows_file(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@needs_real
@pytest.mark.parametrize(
    ("format", "file", "problems", "version"),
    [
        ("math-500", "math500/test.jsonl.gz", 500, "math-500"),
        ("mmlu-pro", "mmlu_pro/test.jsonl.gz", 12032, "test"),
        ("leetcode", "leetcode/v0.3.1-test.jsonl.gz", 228, "v0.3.1"),
        ("leetcode", "leetcode/v0.2.0-train.jsonl.gz", 1890, "v0.2.0-train"),
        ("aime", "aime/aime_historic_deepscaler.jsonl.gz", 975, None),
    ],
)
def test_versions_of_real_files_are_told(format, file, problems, version, tmp_path):
    rows, facts = make(tmp_path, format, REAL / file, problems)
    assert facts["version"] == version and facts["problems_read"] == len(rows) == problems
    if format == "leetcode":
        assert {row["difficulty"] for row in rows} == {"Easy", "Medium", "Hard"}
        assert not facts["repeated"]
        assert all("Example 1" not in benchmarks.question(row, format) for row in rows)
    if format == "mmlu-pro":  # published so
        assert len(facts["repeated"]) > 100
    if version:
        assert make(tmp_path, format, REAL / file, problems, version=version)[1]["version"] == version


@needs_real
def test_another_version_than_the_file_s_is_refused(tmp_path):
    path = REAL / "leetcode/v0.2.0-train.jsonl.gz"
    with pytest.raises(UserError, match=r"does not have the columns of version v0.3.1-train of format leetcode; they fit v0.3.0"):
        make(tmp_path, "leetcode", path, 1890, version="v0.3.1-train")
    with pytest.raises(UserError, match=r"benchmarks.leetcode.problems is 1890, version v0.2.0 has 200"):
        make(tmp_path, "leetcode", path, 1890, version="v0.2.0")


def test_unknown_version_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"benchmarks.math-500.version is 'v9', allowed in format math-500: math-500") as caught:
        make(tmp_path, "math-500", rows_file(tmp_path, [MATH]), 1, version="v9")
    assert "\n" not in str(caught.value)


def test_a_declared_part_of_a_version_loads_and_its_columns_are_checked(tmp_path):
    rows, facts = make(tmp_path, "math-500", rows_file(tmp_path, [MATH]), 1, version="math-500")
    assert len(rows) == 1 and facts["version"] == "math-500"
    with pytest.raises(UserError, match="row 2: column 'answer' is missing"):
        make(tmp_path, "math-500", rows_file(tmp_path, [MATH, {"problem": "q", "unique_id": "v"}]), 2, version="math-500")
    with pytest.raises(UserError, match=r"has 1 problems, .*problems expects 2 \(published in format math-500: math-500 500"):
        make(tmp_path, "math-500", rows_file(tmp_path, [MATH]), 2)


def test_older_leetcode_rows_are_lifted_out_of_meta(tmp_path):
    """v0.1.0 has the query in `meta` too, which none of the files at hand shows."""
    rows, _ = make(tmp_path, "leetcode", rows_file(tmp_path, [{**PROGRAM, "examples": [], "meta": META}]), 1)
    assert (rows[0]["query"], rows[0]["difficulty"], benchmarks.question(rows[0], "leetcode")) == (META["query"], "Hard", "Add.")
    with pytest.raises(UserError, match="row 1: column 'query' is missing"):
        make(tmp_path, "leetcode", rows_file(tmp_path, [{**PROGRAM, "meta": {"difficulty": "Hard"}}]), 1)


def test_columns_tell_leetcode_s_versions(tmp_path):
    older = rows_file(tmp_path, [{**PROGRAM, "meta": META}], "older.jsonl")
    newer = rows_file(tmp_path, [{**PROGRAM, "query": "q", "problem_description": "p", "difficulty": "Easy"}], "newer.jsonl")
    assert make(tmp_path, "leetcode", older, 1, version="v0.2.0")[1]["version"] == "v0.2.0"
    assert make(tmp_path, "leetcode", newer, 1, version="v0.3.1")[1]["version"] == "v0.3.1"
    for path, version in ((older, "v0.3.1"), (newer, "v0.3.0")):
        with pytest.raises(UserError, match=f"{path.name}: does not have the columns of version {version}"):
            make(tmp_path, "leetcode", path, 1, version=version)


def test_subset_is_drawn_by_id_and_nested(tmp_path):
    rows = [{**MATH, "unique_id": f"u{i}"} for i in range(50)]
    path = rows_file(tmp_path, rows)
    few, facts = make(tmp_path, "math-500", path, 50, subset=10)
    more, _ = make(tmp_path, "math-500", path, 50, subset=20)
    random.Random(0).shuffle(rows)
    again, _ = make(tmp_path, "math-500", rows_file(tmp_path, rows), 50, subset=10)
    ids = [{row["id"] for row in found} for found in (few, more, again)]
    assert len(ids[0]) == 10 and ids[0] < ids[1] and ids[0] == ids[2]
    assert (facts["problems"], facts["problems_read"]) == (10, 50)
    assert [row["id"] for row in few] != [f"u{i}" for i in range(10)]
    with pytest.raises(UserError, match=r"has 50 problems, settings.subset is 51"):
        make(tmp_path, "math-500", path, 50, subset=51)


@needs_real
def test_lost_backslashes_of_aime25_are_put_back(tmp_path):
    rows, facts = make(tmp_path, "aime", REAL / "aime/aime25_harness.jsonl.gz", 30)
    assert len(facts["mended"]) == 3
    text = "".join(row["problem"] for row in rows if row["id"] in facts["mended"])
    assert "\\frac{" in text and "\\triangle" in text and "\f" not in text and "\t" not in text
    assert make(tmp_path, "aime", REAL / "aime/aime24_qwen.jsonl.gz", 30)[1]["mended"] == []


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("\frac{1}{2}", r"\frac{1}{2}"),
        ("a \times b, \theta", r"a \times b, \theta"),
        ("$x\neq y$", r"$x\neq y$"),
        ("\begin{x}", r"\begin{x}"),
        ("\right)", r"\right)"),
        ("a\tb\nequal\nnext", "a\tb\nequal\nnext"),  # tab and newlines of a text
        (r"\frac \times", r"\frac \times"),
    ],
)
def test_only_what_was_a_command_is_mended(text, mended, tmp_path):
    rows, facts = make(tmp_path, "math-500", rows_file(tmp_path, [{**MATH, "problem": text}]), 1)
    assert rows[0]["problem"] == mended and facts["mended"] == (["u1"] if text != mended else [])


def test_log_says_what_was_found(tmp_path, capsys):
    rows = [{**MATH, "problem": text, "unique_id": str(i)} for i, text in enumerate(("\frac12", "q", "q"))]
    path = rows_file(tmp_path, rows)
    make(tmp_path, "math-500", path, 3, version="math-500", subset=2)
    said = "2 problems of 3 (version math-500), LaTeX mended in 1, 1 ask what another asks"
    assert capsys.readouterr().err == f"math-500: {said} from {path}\n"


def test_repeated_problems_are_counted_or_refused_where_ids_would_hide_them(tmp_path):
    twice = [MATH, {**MATH, "unique_id": "u2"}]
    assert make(tmp_path, "math-500", rows_file(tmp_path, twice), 2)[1]["repeated"] == ["u2"]
    without_ids = [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": "1"}, {"problem": "p", "answer": "1"}]
    with pytest.raises(UserError, match="row 3 repeats an earlier row's problem"):
        make(tmp_path, "aime", rows_file(tmp_path, without_ids), 3)


def test_files_of_math_without_ids_may_lack_answers(tmp_path, capsys):
    rows = [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": None}, {"problem": "r", "answer": " "}]
    made, facts = make(tmp_path, "math-500", rows_file(tmp_path, rows), 3)
    assert [(row["id"], row["gold"]) for row in made] == [("1", "1"), ("2", None), ("3", None)]
    assert facts["without_gold"] == ["2", "3"]
    assert "2 have no answer and cannot be judged" in capsys.readouterr().err
    with pytest.raises(UserError, match="row 2: column 'answer' is a NoneType"):
        make(tmp_path, "math-500", rows_file(tmp_path, [{**row, "unique_id": str(i)} for i, row in enumerate(rows)]), 3)
    with pytest.raises(UserError, match="row 2: column 'unique_id' is missing"):
        make(tmp_path, "math-500", rows_file(tmp_path, [MATH, rows[0]]), 2)


@needs_real
def test_all_of_math_loads(tmp_path):
    made, facts = make(tmp_path, "math-500", REAL / "math_test5000/train_with_answer.jsonl.gz", 7474)
    assert len(made) == 7474 and len(facts["without_gold"]) == 4 and facts["version"] is None
