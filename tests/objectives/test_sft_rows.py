"""Which sequences supervised fine-tuning sees, and that a large corpus is not tokenized for a few steps."""

import pytest
from samples import conversations

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import batches, load
from hybrid_lora.objectives import sft

SETTINGS = {"corpus": "tiny", "sources": ["math"], "max_length": 64, "steps": 3, "batch_size": 4}


@pytest.fixture
def tokenized(monkeypatch):
    """The conversations that were tokenized."""
    encode, seen = batches.encode, []

    def counted(words, messages, max_length):
        seen.append(messages[0]["content"])
        return encode(words, messages, max_length)

    monkeypatch.setattr(batches, "encode", counted)
    return seen


def test_only_what_the_steps_ask_for_is_tokenized_and_each_row_once(model_folder, corpus_files, tokenized):
    words = load.tokenizer(model_folder)
    few = sft._dataset(corpus_files[0], words, SETTINGS, 0)
    assert len(few) == len(tokenized) == 12
    tokenized.clear()
    many = sft._dataset(corpus_files[0], words, SETTINGS | {"steps": 40}, 0)  # two epochs and a half of 64 rows
    assert len(many) == 160 and len(tokenized) == 64
    assert many[:12] == few[:]
    assert sorted(many[:64]["input_ids"]) == sorted(many[64:128]["input_ids"]) != many[:64]["input_ids"]
    assert many[:64]["input_ids"] != many[64:128]["input_ids"]  # in another order
    assert sft._dataset(corpus_files[0], words, SETTINGS, 1)[:] != few[:]
    for row in few:
        prompt = row["labels"].count(-100)
        assert 0 < prompt < len(row["input_ids"])
        assert row["labels"] == [-100] * prompt + row["input_ids"][prompt:]
        assert row["input_ids"][-1] == words.eos_token_id


def test_rows_without_room_for_an_answer_are_passed_over(model_folder, tmp_path, tokenized):
    rows = conversations(12)
    for row in rows[::2]:
        row["messages"][0]["content"] *= 20
    rows[1]["source"] = "code"
    corpus.write(tmp_path / "train.parquet", rows)
    words = load.tokenizer(model_folder)
    found = sft._dataset(tmp_path / "train.parquet", words, SETTINGS, 0)
    assert len(found) == 12
    assert len({str(ids) for ids in found["input_ids"]}) <= 5 and len(tokenized) == 11
    with pytest.raises(UserError, match="corpus tiny: no row of sources math fits max_length"):
        sft._dataset(tmp_path / "train.parquet", words, SETTINGS | {"max_length": 4}, 0)
    with pytest.raises(UserError, match="corpus tiny: no row of sources science fits max_length"):
        sft._dataset(tmp_path / "train.parquet", words, SETTINGS | {"sources": ["science"]}, 0)
