"""The corpus command: columns, split by problem, limits, golds of real formats, and refusals in one line."""

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus as contract
from hybrid_lora.contracts import tables
from hybrid_lora.data import __main__ as cli
from hybrid_lora.data import corpus
from hybrid_lora.data.corpus_formats import conversation
from hybrid_lora.grading import boxed

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GENERATED = {"rows": 3000, "wrong_steps": 0.1, "direct_answers": 0.1, "seed": 0}


def settings(**changed):
    base = {"format": "mixture-of-thoughts", "data": "generated", "generated": GENERATED, "prompt": "{prompt}"}
    return {**base, "validation_rows": 200, "max_rows": None, "max_tokens": None, "seed": 0, **changed}


def make(folder, **changed):
    train, val = folder / "train.parquet", folder / "val.parquet"
    corpus.run(settings(**changed), train, val)
    return contract.read(train), contract.read(val)


def prompt(row):
    return row["messages"][0]["content"]


def mot(question, reply, source="math", **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "num_tokens": len(question), "source": source, **more}


def local(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_generated_corpus_is_complete_split_by_prompt_and_has_manifests(tmp_path):
    train, val = make(tmp_path)
    assert len(val) == 200
    assert not {prompt(r) for r in train} & {prompt(r) for r in val}
    facts = json.loads((tmp_path / "train.parquet.manifest.json").read_text())
    assert facts["rows_read"] == 3000 == len(train) + len(val) + facts["same_prompt_left_out"]
    assert facts["stage"] == "data.corpus" and facts["settings"]["generated"] == GENERATED
    assert (tmp_path / "val.parquet.manifest.json").exists()
    ids = [row["id"] for row in train + val]
    assert len(set(ids)) == len(ids)
    assert pq.read_schema(tmp_path / "train.parquet").remove_metadata() == contract.SCHEMA
    assert all((row["tests"] is None) == (row["source"] != "code") for row in train)


def test_same_settings_same_bytes_and_limits_only_shorten(tmp_path):
    for name in ("a", "b", "short"):
        (tmp_path / name).mkdir()
    train, val = make(tmp_path / "a")
    make(tmp_path / "b")
    assert (tmp_path / "a/train.parquet").read_bytes() == (tmp_path / "b/train.parquet").read_bytes()
    short, short_val = make(tmp_path / "short", max_rows=50)
    assert short == train[:50] and short_val == val
    other, _ = make(tmp_path / "short", seed=1)
    assert [r["id"] for r in other] != [r["id"] for r in train]


def test_rows_of_one_prompt_fall_on_one_side_and_ids_count_duplicates(tmp_path):
    rows = [mot(f"q{i % 10}", "\\boxed{1}") for i in range(100)]
    train, val = make(tmp_path, data=local(tmp_path, rows), validation_rows=15)
    assert len(val) == 15 and len({prompt(r) for r in val}) == 2
    assert len(train) == 80
    ids = [row["id"] for row in train + val]
    assert len(set(ids)) == 95
    assert len({name.split("-")[0] for name in ids}) == 10


def test_long_rows_are_left_out_and_counted(tmp_path, capsys):
    rows = [mot("x" * n, "\\boxed{1}") for n in range(1, 21)]
    train, val = make(tmp_path, data=local(tmp_path, rows), validation_rows=2, max_tokens=12)
    assert sorted(r["num_tokens"] for r in train + val) == list(range(1, 13))
    assert "8 of more than 12 tokens left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, reply, gold",
    [
        ("math", "\\boxed{7}", "7"),
        ("math", "The answer is (C)", None),
        ("science", "The answer is (C).", "C"),
        ("science", "The answer is (A). Wait: the answer is B", "B"),
        ("science", "The answer is Carbon", None),
        ("science", "The answer is C because it holds four.", "C"),
        ("science", "The answer is E = mc^2.", None),
        ("science", "The answer is E. coli", None),
        ("science", "The answer is (A), i.e. \\boxed{D}", "D"),
        ("code", "\\boxed{7}", None),
        ("open-r1/OpenR1-Math-220k", "\\boxed{7}", "7"),
        ("math", "<think>\\boxed{3}? No.</think>\nSo \\boxed{4}.", "4"),
        ("math", "<think>\\boxed{3}? No, 4.</think>\nThe answer is 4.", None),  # 3 is no final answer
        ("science", "<think>\\boxed{A}?</think>\nThe answer is (C).", "C"),
        ("math", "<think>So \\boxed{3}.</think>\n", "3"),
        ("math", "Either \\boxed{1} or \\boxed{2}.", "\\boxed{1} or \\boxed{2}"),
        ("math", "\\boxed{1}, no, \\boxed{2}", "2"),
    ],
)
def test_gold_is_the_trace_s_own_final_answer(source, reply, gold):
    assert conversation(mot("q", reply, source), "mixture-of-thoughts", "{prompt}", "x")["gold"] == gold


def test_a_row_s_own_gold_wins_over_a_wrong_trace():
    row = mot("q", "\\boxed{7}", gold="8")
    assert conversation(row, "mixture-of-thoughts", "{prompt}", "x")["gold"] == "8"


def test_gsm8k_row_loses_marks_and_commas():
    row = {"question": "How {many}?", "answer": "He has 500*2=$<<500*2=1000>>1,000.\nPlus 234.\n#### 1,234"}
    made = conversation(row, "gsm8k", "{question}\nThink.", "x")
    assert made["messages"][0]["content"] == "How {many}?\nThink."
    assert made["messages"][1]["content"] == "He has 500*2=$1,000.\nPlus 234.\nThe answer is \\boxed{1234}."
    assert (made["gold"], made["source"], made["num_tokens"]) == ("1234", "math", None)


@pytest.mark.skipif(not (REAL / "gsm8k").is_dir(), reason="shared/data/gsm8k is absent")
def test_all_of_gsm8k_loads(tmp_path):
    train, val = make(tmp_path, format="gsm8k", data=str(REAL / "gsm8k" / "train.jsonl.gz"), prompt="{question}")
    assert len(train) + len(val) == 7473
    assert all(boxed.last(r["messages"][1]["content"]) == r["gold"] for r in train)
    assert not any(mark in r["messages"][1]["content"] for r in train for mark in ("<<", ">>", "####"))


def test_command_line_writes_both_files_and_reports_errors_in_one_line(tmp_path, capsys):
    out = ["--train", str(tmp_path / "t.parquet"), "--val", str(tmp_path / "v.parquet")]
    path = local(tmp_path, [mot(f"q{i}", "\\boxed{1}") for i in range(9)])
    text = json.dumps(settings(data="elsewhere.jsonl", validation_rows=3))
    assert cli.main(["corpus", "--settings", text, "--source", path, *out]) == 0
    assert tables.metadata(tmp_path / "t.parquet") == {"format": "mixture-of-thoughts"}
    capsys.readouterr()
    assert cli.main(["corpus", "--settings", text, *out]) == 2
    assert capsys.readouterr().err == "hybrid_lora: error: elsewhere.jsonl: no such file\n"


@pytest.mark.parametrize("source", [["--source"], ["--source", ""], []])
def test_source_may_be_empty_as_a_rule_without_a_file_writes_it(source, tmp_path):
    out = ["--train", str(tmp_path / "t.parquet"), "--val", str(tmp_path / "v.parquet")]
    assert cli.main(["corpus", *source, *out, "--settings", json.dumps(settings(max_rows=5))]) == 0


GOOD = [mot(f"q{i}", "\\boxed{1}") for i in range(9)]
BAD_SETTINGS = {
    "format": ({"format": "csv"}, r"settings: format is 'csv', allowed: mixture-of-thoughts, gsm8k"),
    "generated gsm8k": ({"format": "gsm8k"}, r"format is 'gsm8k', allowed: mixture-of-thoughts"),
    "too much validation": ({"validation_rows": 3000}, r"settings.validation_rows is 3000"),
    "negative": ({"validation_rows": -1}, r"validation_rows is -1, allowed"),
    "no rows": ({"max_rows": 0}, r"max_rows is 0, allowed: .* or null"),
    "template field": ({"prompt": "{question}"}, r"settings.prompt names \{question\}, allowed: prompt"),
    "template braces": ({"prompt": "{prompt} {"}, r"settings.prompt is not a template"),
    "hub": ({"data": "hub", "hub": {"repo": "a/b"}}, r"hub.revision is missing"),
}


@pytest.mark.parametrize("changed, message", BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_settings_are_one_line(changed, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, **changed)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


BAD_ROWS = {
    "no messages": ({"num_tokens": 1, "source": "math"}, r"row 10: column 'messages' is missing"),
    "source": (mot("q", "a", "poetry"), r"row 10: source is 'poetry', allowed: math, code, science"),
    "no reply": ({**GOOD[0], "messages": GOOD[0]["messages"][:1]}, r"row 10: column 'messages' must end with"),
    "no texts": ({**GOOD[0], "messages": [{"role": "user"}]}, r"row 10: column 'messages' must be a list of objects"),
    "tokens": ({**GOOD[0], "num_tokens": "many"}, r"row 10: column 'num_tokens' is a str"),
    "truth as tokens": ({**GOOD[0], "num_tokens": True}, r"row 10: column 'num_tokens' is a bool, expected int"),
    "number as gold": ({**GOOD[0], "gold": 0.5}, r"row 10: column 'gold' is a float, expected text"),
    "text as tests": (
        {**GOOD[0], "tests": "assert f(1) == 2"},
        r"row 10: column 'tests' is a str, expected an object with prompt",
    ),
    "list in tests": ({**GOOD[0], "tests": {"test": [1]}}, r"row 10: column 'tests': test is a list, expected text"),
    "list as source": ({**GOOD[0], "source": ["math"]}, r"row 10: source is .*allowed: math, code, science"),
    "no object": ([1, 2], r"row 10 is a list, expected an object"),
}


@pytest.mark.parametrize("row, message", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_are_one_line_that_names_file_and_row(row, message, tmp_path):
    path = local(tmp_path, [*GOOD, row])
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, data=path, validation_rows=3)
    assert str(caught.value).startswith(path) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name, data, message", [
    ("a.jsonl", b'{"a": 1}\n{"a": ', "line 2: not JSON"),
    ("a.json", b'{"a": 1}', "holds a JSON dict"),
    ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], "truncated or damaged gzip"),
    ("b.jsonl.gz", b"plain text", "truncated or damaged gzip"),
    ("a.parquet", b"PAR1....", "not a readable Parquet file"),
    ("a.jsonl", b"\xff\xfe\x00", "not a UTF-8 text file"),
    ("a.jsonl", b"", "holds no rows"),
    ("a.txt", b"", "unknown kind of file, allowed endings"),
    ("a.csv", b"a,b\n1,2,3\n", "row 1 has more fields than the header"),
])  # fmt: skip
def test_damaged_files_are_one_line(name, data, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, data=str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_split_by_prompt_keeps_equal_prompts_together_and_no_more(tmp_path):
    """`A` and `a` are one problem but two prompts."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": f"{copy}"}],
            "source": "math",
            "num_tokens": 5,
        }
        for i in range(40)
        for word in ("add", "ADD")
        for copy in range(2)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    sides = {}
    for by in ("problem", "prompt"):
        settings = {"format": "mixture-of-thoughts", "data": "local", "prompt": "{prompt}", "validation_rows": 40}
        settings |= {"max_rows": None, "max_tokens": 100, "seed": 0, "split_by": by}
        corpus.run(settings, tmp_path / "train.parquet", tmp_path / "val.parquet", path)
        found = [contract.read(tmp_path / f"{side}.parquet") for side in ("train", "val")]
        sides[by] = [{row["messages"][0]["content"] for row in side} for side in found]
    assert not set.intersection(*sides["problem"]) and not set.intersection(*sides["prompt"])
    folded = {by: [{text.casefold() for text in side} for side in found] for by, found in sides.items()}
    assert not set.intersection(*folded["problem"])
    assert set.intersection(*folded["prompt"])


def test_leetcode_as_a_corpus_with_tests(tmp_path):
    """The published training split: every row brings tests that its worked solution passes."""
    from hybrid_lora.grading import dispatch

    source = REAL / "leetcode" / "v0.2.0-train.jsonl.gz"
    if not source.is_file():
        pytest.skip("the real data sets are not here")
    train, val = tmp_path / "train.parquet", tmp_path / "val.parquet"
    chosen = settings(format="leetcode", data="local", prompt="{query}\n\nGive a program.", validation_rows=64)
    corpus.run(chosen, train, val, source)
    rows = contract.read(train)
    assert len(rows) + 64 == 1890
    assert {row["source"] for row in rows} == {"code"} and all(row["tests"]["test"] for row in rows)
    assert prompt(rows[0]).endswith("Give a program.")
    graded = [{"completion": row["messages"][-1]["content"], "tests": row["tests"]} for row in rows[:12]]
    limits = {"sandbox": "limits", "program_timeout_s": 60, "program_memory_mb": 1024, "math_timeout_s": 5}
    assert [verdict.correct for verdict in dispatch.grade_all("code", graded, limits)] == [True] * 12
    assert [verdict.correct for verdict in dispatch.grade_all("code", [graded[0] | {"completion": "pass"}], limits)] == [False]


def test_leetcode_row_without_tests(tmp_path):
    source = local(tmp_path, [{"query": "q", "completion": "c", "prompt": "", "entry_point": "f"}])
    chosen = settings(format="leetcode", data="local", prompt="{query}")
    with pytest.raises(UserError, match=r"row 1: column 'test' is missing or no text; format leetcode needs query, completion"):
        corpus.run(chosen, tmp_path / "train", tmp_path / "val", source)
