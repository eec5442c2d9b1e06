"""Trainings of a tiny model in this process, of a few steps."""

from objective_settings import RL, SFT
from safetensors.torch import load_file
from trainings import trained

from hybrid_lora.contracts import history

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
OBJECTIVES = {"sft": SFT, "grpo": RL | {"algorithm": "grpo"}, "gspo": RL | {"algorithm": "gspo"}}


def run(folder, model_folder, corpus_files, objective, placement="criterion", allocation=(), seed=0, **change):
    trained(folder, model_folder, corpus_files, OBJECTIVES[objective] | change, placement, allocation, seed=seed)
    return history.read(folder / "history.parquet").to_pylist()


def adapter(folder):
    return load_file(folder / "policy" / "adapter_model.safetensors")
