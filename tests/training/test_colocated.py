"""A training on two processes with an engine of vLLM in each, or one over both (tensor_parallel): the real command.

    make test-vllm ARGS=tests/training/test_colocated.py

On GPUs, one a process: python -m pytest tests/training/test_colocated.py
"""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import several as runs
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

from killing import Materials
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from hybrid_lora.common.files import directory_artifact
from hybrid_lora.contracts import allocation, modules, samples
from hybrid_lora.model import publish

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(GPUS == 1, reason="needs two GPUs, or none")
ENGINE = {"mode": "colocate", "gpu_memory_utilization": 0.2, "max_model_len": 128, "sleep": False}
ENGINE |= {"server": "http://127.0.0.1:8000", "group_port": 51216}
CHANGE = runs.REPLAYED | {"rollouts": "vllm", "device_batch_size": 4, "save_every": 4, "steps": 8, "max_completion_tokens": 24}
HERE = {"REPLAY_NOTHING": "1", "GLOO_SOCKET_IFNAME": "lo"}
ON_CPU = {"REPLAY_UNPACKED": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
ON_GPU = {"ACCELERATE_USE_CPU": "false"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Corpora, an allocation, and a model with heads of 64, the smallest that vLLM's CPU attention takes."""
    made = Materials(tmp_path_factory.mktemp("materials"))
    words = AutoTokenizer.from_pretrained(made.model)
    shutil.rmtree(made.model)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = Qwen2Config(vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=256, **shape, **ends)
    with directory_artifact(made.model) as out:
        Qwen2ForCausalLM(config).save_pretrained(out)
        words.save_pretrained(out)
        publish.describe(out, "tiny", None, "model.pretrain", {}, {})
    value = json.loads((made.folder / "a.json").read_text()) | {"model": modules.read(made.model / "modules.json")["model"]}
    allocation.write(made.folder / "a.json", value)
    return made


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_processes_sample_from_the_policy(made, tmp_path, tensor_parallel):
    out = tmp_path / "run"
    command = runs.arguments(made, out, "gspo", **CHANGE, vllm=ENGINE | {"tensor_parallel": tensor_parallel})
    log = runs.finished(command, tmp_path / "log", 2, **HERE | (ON_GPU if GPUS else ON_CPU))
    records = pq.read_table(out / "history.parquet").to_pylist()
    differences = [r[key] for r in records if r.get(key := "sampling/sampling_logp_difference/mean") is not None]
    print("differences", differences, "KL", [r["kl"] for r in records])
    assert len(differences) == 4 and max(differences) < (0.02 if GPUS else 0.005), log
    assert records[0]["kl"] == 0.0 and records[-1]["kl"] > 1e-3
    kept = samples.read(out / "samples.parquet")
    assert len(kept) > 1
