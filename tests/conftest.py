"""Shared fixtures: a tiny random Qwen2 folder with a real tokenizer, and small corpora in the contracts' formats."""

import os
import sys
from pathlib import Path

import pytest
from samples import conversations

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "workflow"))
os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO / "workflow"), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def repo():
    return REPO


@pytest.fixture(scope="session")
def corpus_files(tmp_path_factory):
    """(train.parquet, val.parquet)"""
    from hybrid_lora.contracts import corpus

    folder = tmp_path_factory.mktemp("corpus")
    corpus.write(folder / "train.parquet", conversations(64))
    corpus.write(folder / "val.parquet", conversations(24, seed=1))
    return folder / "train.parquet", folder / "val.parquet"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """results/models/tiny: a 2-layer random Qwen2 (biases on q, k, v) as the model stage leaves it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.common.files import directory_artifact
    from hybrid_lora.model import publish, tokenizer

    out = tmp_path_factory.mktemp("models") / "tiny"
    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    for name, parameter in model.named_parameters():  # transformers zeroes biases; a test needs to see them
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    with directory_artifact(out) as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        publish.describe(folder, "tiny", None, "model.pretrain", {}, {})
    return out
