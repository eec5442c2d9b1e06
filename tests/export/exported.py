"""The tiny policies that are exported: what they are trained with and where they lie."""

from objective_settings import SFT

from hybrid_lora.contracts import base_model

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
OBJECTIVE = SFT | {
    "steps": 2,
    "batch_size": 8,
    "device_batch_size": 8,
    "learning_rate": {"full": 1e-2, "lora": 5e-2},  # far enough from the base to tell the two apart
}
PLACEMENTS = {"hybrid": "criterion", "lora": "lora", "lora-ffn": "lora-ffn", "full": "full"}


def policy(work, run):
    return work / "results/training" / run / "policy"


def front(folder):
    return base_model.front_matter(folder / "README.md")
