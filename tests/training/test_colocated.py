"""A training on two processes with an engine of vLLM in each, or one over both (tensor_parallel): the real command.

    make test-vllm ARGS=tests/training/test_colocated.py

On GPUs, one a process: python -m pytest tests/training/test_colocated.py
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import several as runs
import torch
import vllm_here

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

from killing import Materials
from transformers import AutoTokenizer

from hybrid_lora.common.files import directory_artifact
from hybrid_lora.contracts import allocation, modules, samples
from hybrid_lora.model import publish

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(GPUS == 1, reason="needs two GPUs, or none")
CHANGE = runs.REPLAYED | {"rollouts": "vllm", "device_batch_size": 4, "save_every": 4, "steps": 8, "max_completion_tokens": 24}
HERE = {"REPLAY_NOTHING": "1", "GLOO_SOCKET_IFNAME": "lo"}
ON_CPU = {"REPLAY_UNPACKED": "1", **vllm_here.ON_CPU}
ON_GPU = {"ACCELERATE_USE_CPU": "false"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Corpora, an allocation, and a model that vLLM takes."""
    made = Materials(tmp_path_factory.mktemp("materials"))
    words = AutoTokenizer.from_pretrained(made.model)
    shutil.rmtree(made.model)
    with directory_artifact(made.model) as out:
        vllm_here.random_model(words, num_key_value_heads=2).save_pretrained(out)
        words.save_pretrained(out)
        publish.describe(out, "tiny", None, "model.pretrain", {}, {})
    value = json.loads((made.folder / "a.json").read_text()) | {"model": modules.read(made.model / "modules.json")["model"]}
    allocation.write(made.folder / "a.json", value)
    return made


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_processes_sample_from_the_policy(made, tmp_path, tensor_parallel):
    out = tmp_path / "run"
    for rest in Path("/dev/shm").glob("-tp:0-*"):  # vLLM's CPU build: the same name for every training, removed by none
        rest.unlink()
    command = runs.arguments(made, out, "gspo", **CHANGE, vllm=vllm_here.ENGINE | {"tensor_parallel": tensor_parallel})
    log = runs.finished(command, tmp_path / "log", 2, **HERE | (ON_GPU if GPUS else ON_CPU))
    records = pq.read_table(out / "history.parquet").to_pylist()
    differences = [r[key] for r in records if r.get(key := "sampling/sampling_logp_difference/mean") is not None]
    print("differences", differences, "KL", [r["kl"] for r in records])
    assert len(differences) == 4 and max(differences) < (0.02 if GPUS else 0.005), log
    assert records[0]["kl"] == 0.0 and records[-1]["kl"] > 1e-3
    kept = samples.read(out / "samples.parquet")
    assert len(kept) > 1
