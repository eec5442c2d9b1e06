"""What tests with the real vLLM share: a model that its CPU build takes, engine settings, and what the CPU build needs."""

import json

import torch
from samples import conversations
from transformers import Qwen2Config, Qwen2ForCausalLM

from hybrid_lora.model import tokenizer

ENGINE = {
    "mode": "colocate",
    "gpu_memory_utilization": 0.1,
    "tensor_parallel": 1,
    "max_model_len": None,
    "sleep": False,
    "importance_correction": "token",
    "server": "http://127.0.0.1:8000",
    "group_port": 51216,
}
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "GLOO_SOCKET_IFNAME": "lo"}


def random_model(words, **change):
    """A 2-layer Qwen2 with heads of 64, the smallest that vLLM's CPU attention takes, and biases that show where one is lost."""
    shape = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    shape |= {"num_key_value_heads": 1, "max_position_embeddings": 256, **change}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(words), **shape, **special))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def model_folder(out, **change):
    """`random_model` in bf16, as models are released, with a tokenizer and the file that would mislead vLLM."""
    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    random_model(words, **change).bfloat16().save_pretrained(out)
    words.save_pretrained(out)
    (out / "modules.json").write_text(json.dumps({}))
    return out


def unpack():
    """vLLM's CPU build packs weights as it loads them and could not take new ones: have it use its plain matrix product."""
    from vllm.model_executor.layers import utils

    def plain(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


def set_up(patch):
    """The environment and, on a CPU, `unpack`, until the MonkeyPatch ends."""
    from vllm.model_executor.layers import utils

    for name, value in ON_CPU.items():
        patch.setenv(name, value)
    if not torch.cuda.is_available():
        patch.setattr(utils, "dispatch_cpu_unquantized_gemm", utils.dispatch_cpu_unquantized_gemm)
        unpack()
