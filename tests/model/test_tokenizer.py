"""The learned tokenizer: lossless, the same after AutoTokenizer has loaded it, shorter with phrases."""

import pytest
from samples import conversations
from transformers import AutoTokenizer, Qwen2Config

from hybrid_lora.common.errors import UserError
from hybrid_lora.model import tokenizer

TEXTS = ["Compute 3+5.", "8+9=17\nThe answer is \\boxed{17}.", "déjà vu — 数学 🙂 x=1 \t end", "    indented\n\n\ntext", ""]


@pytest.fixture(params=["words", "phrases"])
def learned(request, tmp_path):
    made = tokenizer.train([row["messages"] for row in conversations(200)], 300, request.param)
    made.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    return made, AutoTokenizer.from_pretrained(tmp_path)


def test_lossless_and_same_after_loading(learned):
    made, loaded = learned
    assert len(made) == len(loaded) <= 300
    for text in TEXTS:
        ids = made(text)["input_ids"]
        assert ids == loaded(text)["input_ids"]
        assert loaded.decode(ids) == text
    assert loaded.eos_token == "<|im_end|>"
    assert loaded.pad_token_id != loaded.eos_token_id
    messages = [{"role": "user", "content": "hi"}]
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_digits_are_single_and_phrases_are_shorter():
    rows = [row["messages"] for row in conversations(200)]
    words, phrases = (tokenizer.train(rows, 300, merge) for merge in ("words", "phrases"))
    text = rows[0][1]["content"]
    assert len(phrases(text)["input_ids"]) < len(words(text)["input_ids"])
    for made in (words, phrases):
        assert [t for t in made.tokenize("1234") if t.strip()] == list("1234")


def test_too_small_vocabulary():
    with pytest.raises(UserError, match=r"vocab_size is 100; .* at least 259"):
        tokenizer.train([row["messages"] for row in conversations(5)], 100)
