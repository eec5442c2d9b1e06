"""`rollouts: vllm` with `mode: server`: a real vLLM server on one GPU samples for a training on another and gets its weights by
NCCL.

    python -m pytest tests/gpu/test_vllm_server_gpu.py

Some modules of a fused layer have LoRA, some are trained in full, some have no adapter: the server is to have all of them
right.
"""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch
import vllm_here

pytest.importorskip("vllm", reason="vLLM is not installed")

import requests
from objective_settings import GRADING, RL
from samples import conversations

from hybrid_lora.modeling import hybrid, load, trainer
from hybrid_lora.objectives import rl

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
FFT = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
LORA = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]
OBJECTIVE = RL | {
    "algorithm": "gspo",
    "prompts_per_generation": 16,
    "steps": 6,
    "max_completion_tokens": 24,
    "rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0},
    "rollouts": "vllm",
    "precision": "bf16",
    "save_every": 6,
}
OPTIONS = ["--runner", "generate", "--logprobs-mode", "processed_logprobs", "--weight-transfer-config", '{"backend": "nccl"}']
SMALL = ["--max-model-len", "128", "--gpu-memory-utilization", "0.1", "--enforce-eager"]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
    out = vllm_here.model_folder(tmp_path_factory.mktemp("models") / "small", **shape)
    (out / "modules.json").unlink()
    return out


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Address of a server of the base model on the second GPU."""
    log, port = tmp_path_factory.mktemp("server") / "log", free_port()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    environment = os.environ | rl.PRIVATE | {"VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": visible[1]}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), *OPTIONS, *SMALL]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        wait(process, address, log)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def wait(process, address, log, seconds=300):
    for _ in range(seconds):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if requests.get(f"{address}/health", timeout=2).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(1)
    raise AssertionError(f"no server after {seconds} s: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def trained(folder, server, tmp_path_factory):
    """(trainer after six steps, names of each sync, frozen weights before, records)."""
    objective = OBJECTIVE | {"vllm": vllm_here.ENGINE | {"mode": "server", "server": server, "group_port": free_port()}}
    words, model = load.tokenizer(folder), load.model(folder, "bfloat16")
    peft = hybrid.lora_config({"rank": 4, "alpha": 8, "dropout": 0.0, "names": LORA}, FFT)
    record, work = trainer.Record("training"), tmp_path_factory.mktemp("state")
    built = rl.build(model, peft, words, conversations(64), objective, 0, work, [record], GRADING, 1, "r")
    hybrid.to_fp32_trainable(built.model)
    frozen = {name: p.detach().clone() for name, p in built.model.named_parameters() if not p.requires_grad}
    syncs, weights = [], built.vllm_generation._iter_named_params

    def watched():
        syncs.append([])
        for name, value in weights():
            syncs[-1].append(name)
            yield name, value

    built.vllm_generation._iter_named_params = watched
    record.quiet(built).train()
    return built, syncs, frozen, record.history()


def test_the_server_samples_from_the_policy(trained):
    records = [record for record in trained[3] if "loss" in record]
    differences = [r[key] for r in records if (key := "sampling/sampling_logp_difference/mean") in r]
    print("differences", differences, "KL", [r["kl"] for r in records], "sync s", [r["time_sync_s"] for r in records])
    assert len(differences) == 3 and max(differences) < 0.02
    assert records[0]["kl"] == 0.0 < records[-1]["kl"]
    assert [r["time_sync_s"] > 0 for r in records] == [True, False] * 3


def test_only_layers_with_an_adapter_are_sent(trained):
    _, syncs, _, _ = trained
    sent = {
        f"model.layers.{layer}.self_attn.{name}_proj.{part}" for layer in (0, 1) for name in "qkv" for part in ("weight", "bias")
    }
    sent |= {f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up")} | {"model.layers.0.mlp.down_proj.weight"}
    assert len(syncs) >= 3 and all(set(names) == sent for names in syncs)


def test_frozen_weights_are_the_same_bit_for_bit(trained):
    built, _, frozen, _ = trained
    after = dict(built.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


def test_the_server_has_the_published_policy(trained, server, folder):
    """Log-probabilities of a text by the server and by the merged policy, and that the base has others."""
    built, _, _, _ = trained
    built.vllm_generation.sync_weights()
    ids = torch.randint(5, 250, (1, 48), generator=torch.Generator().manual_seed(3))
    asked = {"model": str(folder), "prompt": ids[0].tolist(), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
    answer = requests.post(f"{server}/v1/completions", json=asked, timeout=60).json()
    assert "choices" in answer, answer
    positions = answer["choices"][0]["prompt_logprobs"][1:]
    found = torch.tensor([position[str(token)]["logprob"] for position, token in zip(positions, ids[0, 1:].tolist())])
    model = built.accelerator.unwrap_model(built.model).eval()
    policy = logps(model, ids)
    with model.disable_adapter():
        base = logps(model, ids)
    off, moved = (found - policy).abs().mean().item(), (base - policy).abs().mean().item()
    print(f"server against policy {off:.4f}, base against policy {moved:.4f}")
    assert off < 0.02 and moved > 5 * off


def logps(model, ids):
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        logits = model(input_ids=ids.to(model.device)).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None].to(logits.device))[:, 0].cpu()
