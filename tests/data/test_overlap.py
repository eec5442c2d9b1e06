"""Overlap of a corpus with benchmarks: what counts, what is reported, and that a decontaminated corpus has none."""

import json
from pathlib import Path

import pytest

from hybrid_lora.contracts import benchmarks, overlap
from hybrid_lora.contracts import corpus as contract
from hybrid_lora.data import __main__ as cli
from hybrid_lora.data import benchmark, corpus, ngrams

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LONG = "A farmer has seventeen sheep and all but nine of them run away at dawn; how many are left?"
OTHER = "Let $S$ be the sum of all positive integers n such that n squared plus twelve n is a perfect square. Find S."
SHORT = "Evaluate $2^{10}$."


@pytest.fixture
def problems(tmp_path):
    rows = [{"id": f"m{i}", "problem": text, "gold": "1"} for i, text in enumerate((LONG, SHORT))]
    benchmarks.write(tmp_path / "math.parquet", rows, "math-500")
    row = {"id": "g0", "Question": OTHER, "options": ["a", "b"], "gold": "A"}
    benchmarks.write(tmp_path / "gpqa.parquet", [row], "gpqa")
    return [tmp_path / "math.parquet", tmp_path / "gpqa.parquet"]


def find(problems, text, n=13):
    index = ngrams.Index(problems, n)
    return {index.problems[number]: shared for number, shared in index.find(text).items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"Solve this. {LONG.upper()} Think.", [("math", "m0")]),
        (LONG.replace(";", ",\n").replace(" has", "  has"), [("math", "m0")]),
        ("The farmer has seventeen sheep and all but nine of them run away at noon", [("math", "m0")]),  # 13 words in a row
        ("farmer has seventeen sheep and all but nine of them run off at dawn", []),  # 11 in a row
        (OTHER.replace("$", ""), [("gpqa", "g0")]),
        (f"{LONG}\n{OTHER}", [("math", "m0"), ("gpqa", "g0")]),
        ("evaluate $2^{10}$.\nThink step by step.", [("math", "m1")]),
        ("First evaluate $2^{10}$. Then add one.", []),
        ("Hello.\nEvaluate\n$2^{10}$.\nAnswer only.", [("math", "m1")]),
        ("Evaluate $2^{11}$.", []),
        ("", []),
    ],
)
def test_what_counts(problems, text, found):
    assert sorted(find(problems, text)) == sorted(found)


def test_fewer_words_find_more(problems):
    text = "farmer has seventeen sheep and all but nine of them run off at dawn"
    assert find(problems, text, n=11) == {("math", "m0"): 1} and find(problems, text, n=5)[("math", "m0")] == 7


def write_rows(folder, prompts):
    rows = [
        {
            "messages": [{"role": "user", "content": p}, {"role": "assistant", "content": f"\\boxed{{{i}}}"}],
            "num_tokens": 9,
            "source": "math",
        }
        for i, p in enumerate(prompts)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


PROMPTS = [f"Sum of {i} and {i} is what?" for i in range(20)] + [LONG, f"{OTHER} Quick!", SHORT]


def make(folder, files, **changed):
    """The corpus command, then the overlap command; returns (train, val, records, summary)."""
    settings = {
        "format": "mixture-of-thoughts",
        "data": str(write_rows(folder, PROMPTS)),
        "prompt": "{prompt}",
        "validation_rows": 5,
    }
    settings |= {"max_rows": None, "max_tokens": None, "seed": 0, **changed}
    train, val, out, summary = (
        str(folder / name) for name in ("train.parquet", "val.parquet", "overlap.parquet", "overlap.json")
    )
    files = list(map(str, files))
    made = ["--train", train, "--val", val, "--benchmarks", *files]
    assert cli.main(["corpus", *made, "--settings", json.dumps(settings)]) == 0
    assert cli.main(["overlap", *made, "--out", out, "--summary", summary, "--settings", '{"n": 13}']) == 0
    return contract.read(train), contract.read(val), overlap.read(out), json.loads(Path(summary).read_text())


def test_report_counts_rows_and_problems_by_id(tmp_path, problems, capfd):
    train, val, found, summary = make(tmp_path, problems)
    by_prompt = {row["messages"][0]["content"]: row["id"] for row in train + val}
    assert {(hit["problem"], hit["id"]) for hit in found} == {
        ("m0", by_prompt[LONG]), ("g0", by_prompt[f"{OTHER} Quick!"]), ("m1", by_prompt[SHORT])
    }  # fmt: skip
    assert all(
        hit["share"] == 1.0 and hit["id"] in {r["id"] for r in (train if hit["split"] == "train" else val)} for hit in found
    )
    assert summary["n"] == 13 and summary["rows"] == {"train": 18, "val": 5}
    assert sum(summary["overlapping"].values()) == 3
    assert {name: (part["problems"], part["found"]) for name, part in summary["benchmarks"].items()} == {
        "math": (2, 2),
        "gpqa": (1, 1),
    }
    said = "".join(capfd.readouterr()) + "".join(path.read_text() for path in tmp_path.glob("overlap*.json"))
    assert "1 of 1 problems found" in said and "perfect square" not in said and "sheep" not in said
    assert (tmp_path / "overlap.parquet.manifest.json").exists() and (tmp_path / "overlap.json.manifest.json").exists()


def test_decontaminated_corpus_shares_nothing(tmp_path, problems, capsys):
    train, val, found, summary = make(tmp_path, problems, decontaminate={"n": 13, "share": 0.0})
    assert found == [] and summary["overlapping"] == {"train": 0, "val": 0} and len(train + val) == 20
    assert "3 left out for sharing text with a benchmark" in capsys.readouterr().err
    facts = json.loads((tmp_path / "train.parquet.manifest.json").read_text())
    assert facts["overlapping_left_out"] == 3 and len(facts["inputs"]["benchmarks"]) == 2


def test_a_larger_share_of_a_problem_may_be_asked_for(tmp_path, problems):
    part = "The farmer has seventeen sheep and all but nine of them run away at noon"
    index = ngrams.Index(problems, 13)
    assert [index.sizes[number] for number in index.find(part)] == [7] and not index.find(part, 0.5) and index.find(LONG, 1.0)
    train, val, _, summary = make(tmp_path, problems, decontaminate={"n": 13, "share": 1.0})
    assert len(train + val) == 20 and summary["overlapping"] == {"train": 0, "val": 0}


def test_refusals_are_one_line(tmp_path, problems, capsys):
    for files, n, share, said in (
        ([], 13, 0.0, "decontaminate is on, but no benchmark is given"),
        (problems, 0, 0.0, "settings.decontaminate: n is 0"),
        (problems, 13, 2, "settings.decontaminate: share is 2"),
        (problems, 13, None, "settings.decontaminate: share is None"),
    ):
        with pytest.raises(AssertionError):
            make(tmp_path, files, decontaminate={"n": n, "share": share})
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    make(tmp_path, problems)
    inputs = ["--train", str(tmp_path / "train.parquet"), "--val", str(tmp_path / "val.parquet")]
    outputs = ["--out", str(tmp_path / "o.parquet"), "--summary", str(tmp_path / "o.json")]
    capsys.readouterr()
    for files, said in (([], "no benchmark to compare with"), ([inputs[1]], "train.parquet: not a benchmark file")):
        assert cli.main(["overlap", *inputs, "--benchmarks", *files, *outputs, "--settings", '{"n": 13}']) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    inputs[1] = str(problems[0])
    assert cli.main(["overlap", *inputs, "--benchmarks", str(problems[0]), *outputs, "--settings", '{"n": 13}']) == 2
    assert "column 'messages' is missing" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is absent")
def test_real_benchmarks_find_themselves_and_little_of_gsm8k(tmp_path):
    files = []
    for name, format, path, count in (
        ("math-500", "math-500", "math500/test.jsonl.gz", 500),
        ("aime-24", "aime", "aime/aime24_qwen.jsonl.gz", 30),
        ("leetcode", "leetcode", "leetcode/v0.3.1-test.jsonl.gz", 228),
    ):
        files.append(tmp_path / f"{name}.parquet")
        benchmark.run({"name": name, "format": format, "data": str(REAL / path), "problems": count}, files[-1])
    index = ngrams.Index(files, 13)
    rows = [
        (path.stem, row["id"], benchmarks.question(row, benchmarks.about(path)["format"]))
        for path in files
        for row in benchmarks.read(path)[0]
    ]
    for name, number, text in rows:
        assert (name, number) in {index.problems[i] for i in index.find(text + "\nThink step by step.")}
    settings = {"format": "gsm8k", "data": str(REAL / "gsm8k/train.jsonl.gz"), "prompt": "{question}", "validation_rows": 100}
    settings |= {"max_rows": None, "max_tokens": None, "seed": 0, "decontaminate": {"n": 13, "share": 0.0}, "rows": 7473}
    corpus.run(settings, tmp_path / "t.parquet", tmp_path / "v.parquet", None, files)
    assert json.loads((tmp_path / "t.parquet.manifest.json").read_text())["overlapping_left_out"] < 5
