"""Which rows of a corpus a training reads: those that its steps ask for, and no others, whatever the size of the corpus."""

import pytest
from samples import conversations

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import batches, load
from hybrid_lora.probe import loop

OPTIONS = {"steps": 3, "batch_size": 4, "max_length": 64, "seed": 0}


@pytest.fixture
def large(tmp_path):
    """2,600 rows: the file is read a thousand at a time."""
    corpus.write(tmp_path / "train.parquet", conversations(2600))
    return tmp_path / "train.parquet"


def test_only_rows_that_steps_ask_for(model_folder, large, monkeypatch):
    words, rows, calls = load.tokenizer(model_folder), corpus.read(large), []
    real = batches.encode
    monkeypatch.setattr(loop.batches, "encode", lambda *a: calls.append(1) or real(*a))
    found = loop.encode(words, large, OPTIONS)
    assert len(calls) == 12 and len(found) == 2600
    for step in range(3):
        chosen = loop.rows_of(step, OPTIONS, 2600)
        assert found.batch(chosen) == [real(words, rows[i]["messages"], 64) for i in chosen]


def test_a_part_of_the_corpus(model_folder, large):
    words, rows = load.tokenizer(model_folder), corpus.read(large)
    numbers = list(range(2599, 99, -100))
    found = loop.encode(words, large, OPTIONS, numbers)
    chosen = loop.rows_of(2, OPTIONS, 25)
    assert found.batch(chosen) == [batches.encode(words, rows[numbers[i]]["messages"], 64) for i in chosen]


def test_rows_cut_before_their_answer_leave_their_batch(model_folder, tmp_path):
    words, rows = load.tokenizer(model_folder), conversations(8)
    rows[3]["messages"][0]["content"] *= 40
    corpus.write(tmp_path / "train.parquet", rows)
    found = loop.encode(words, tmp_path / "train.parquet", OPTIONS | {"steps": 4})
    assert [len(found.batch(loop.rows_of(step, OPTIONS, 8))) for step in range(4)].count(3) == 2  # once an epoch
    with pytest.raises(UserError, match=r"train\.parquet: none of the rows of step 1 keeps a target within max_length 2"):
        loop.encode(words, tmp_path / "train.parquet", OPTIONS | {"max_length": 2})


def test_pick_and_count(large):
    rows = corpus.read(large)
    assert corpus.count(large) == 2600
    found = corpus.pick(large, ("id",), {2599, 0, 1000, 999})
    assert found == {i: {"id": rows[i]["id"]} for i in (0, 999, 1000, 2599)}
    assert corpus.pick(large, ("id",), ()) == {}
