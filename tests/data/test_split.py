"""Training, validation and test share no problem, whatever the words: not only no row, not only no prompt."""

import itertools
import json

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus as contract
from hybrid_lora.data import corpus
from hybrid_lora.data.generated import corpus_rows, programs, split, stories, sums


def make(folder, raw, validation, **changed):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in raw), encoding="utf-8")
    settings = {"format": "mixture-of-thoughts", "data": str(path), "prompt": "{prompt}", "validation_rows": validation}
    settings |= {"max_rows": None, "max_tokens": None, "seed": 0, **changed}
    corpus.run(settings, folder / "t.parquet", folder / "v.parquet")
    return contract.read(folder / "t.parquet"), contract.read(folder / "v.parquet")


def row(question, reply="\\boxed{1}", **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": messages, "num_tokens": 1, "source": "math", **more}


def questions(rows):
    return {r["messages"][0]["content"] for r in rows}


def test_case_blanks_and_forms_of_letters_make_no_other_problem(tmp_path):
    rows = [
        row(text) for i in range(30) for text in (f"Find x{i} + 1.", f"find  x{i}+1. ", f"FIND X{i} + 1.\n", f"ﬁnd x{i} + 1.")
    ]
    train, val = make(tmp_path, rows, 20)
    plain = [{"".join(text.casefold().replace("ﬁ", "fi").split()) for text in questions(found)} for found in (train, val)]
    assert len(plain[0]) == 25 and len(plain[1]) == 5 and not plain[0] & plain[1]


def test_other_signs_are_other_problems(tmp_path):
    train, val = make(tmp_path, [row("3-4"), row("3+4"), row("3*4"), row("34")], 1)
    assert len(train) == 3 and len(val) == 1


def test_a_column_problem_says_what_the_problem_is(tmp_path):
    rows = [row(f"wording {i}", problem=f"p{i % 10}") for i in range(100)]
    train, val = make(tmp_path, rows, 30)
    numbers = [{int(text.split()[1]) % 10 for text in questions(found)} for found in (train, val)]
    assert len(numbers[0]) == 7 and len(numbers[1]) == 3 and not numbers[0] & numbers[1]


def test_generated_splits_and_benchmarks_share_no_problem(tmp_path):
    """The key of a sum is its operands in any order, of a story its numbers: other words or endings are the same problem."""
    generated = {"rows": 3000, "wrong_steps": 0.2, "direct_answers": 0.3, "seed": 5}
    rows = corpus_rows.rows(generated)
    train, val = make(tmp_path, rows, 200)
    key_of = {r["messages"][0]["content"]: r["problem"] for r in rows}
    keys = [{key_of[text] for text in questions(found)} for found in (train, val)]
    assert not keys[0] & keys[1] and len(keys[1]) > 20
    assert len(questions(val)) > len(keys[1])  # some problem has several wordings, or this would prove nothing
    tests = {f"math {' '.join(map(str, sums.held_out_key(p)))}" for p in sums.benchmark_problems((3, 4, 5, 6))}
    tests |= {f"science {' '.join(map(str, stories.held_out_key(p)))}" for p in stories.benchmark_problems(range(12))}
    tests |= {f"code {' '.join(map(str, programs.held_out_key(p)))}" for p in programs.benchmark_problems()}
    assert not tests & (keys[0] | keys[1]) and len(tests) > 1000
    assert split.ONE_IN == 10


def test_validation_rows_of_one_problem_do_not_stand_together(tmp_path):
    rows = [row(f"wording {i}", problem=f"p{i % 30}") for i in range(300)]
    _, val = make(tmp_path, rows, 100)
    numbers = [int(r["messages"][0]["content"].split()[1]) % 30 for r in val]
    assert len(set(numbers)) == 10
    assert sum(a == b for a, b in itertools.pairwise(numbers)) < 30  # 90 if they did


def test_a_source_cut_short_is_refused(tmp_path):
    rows = [row(f"q{i}") for i in range(10)]
    make(tmp_path, rows, 2, rows=10)
    with pytest.raises(UserError, match=r"rows.jsonl: has 10 rows, settings.rows says 20"):
        make(tmp_path, rows, 2, rows=20)
