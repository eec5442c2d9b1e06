"""The tiny policies that are exported: what they are trained with and where they lie."""

from hybrid_lora.contracts import base_model

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
OBJECTIVE = {
    "algorithm": "sft",
    "corpus": "tiny",
    "sources": ["math"],
    "steps": 2,
    "batch_size": 8,
    "device_batch_size": 8,
    "max_length": 64,
    "learning_rate": {"full": 1e-2, "lora": 5e-2},  # far enough from the base to tell the two apart
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "dtype": "float32",
    "gradient_checkpointing": False,
    "fast_layers": True,
    "validation": {"every": 2, "rows": 8, "metric": "nll"},
    "save_every": 2,
}
PLACEMENTS = {"hybrid": "criterion", "lora": "lora", "lora-ffn": "lora-ffn", "full": "full"}


def policy(work, run):
    return work / "results/training" / run / "policy"


def front(folder):
    return base_model.front_matter(folder / "README.md")
