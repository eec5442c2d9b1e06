"""Shared fixtures: a tiny random Qwen2 folder with a real tokenizer, and small corpora in the contracts' formats."""

import os
import sys
from pathlib import Path

import pytest
from samples import conversations, tiny_model

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
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")
