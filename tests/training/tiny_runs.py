"""Trainings of a tiny model in this process, of a few steps."""

import argparse

from safetensors.torch import load_file

from hybrid_lora.contracts import history
from hybrid_lora.training import train

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
GRADING = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
COMMON = {
    "corpus": "tiny",
    "sources": ["math"],
    "steps": 4,
    "device_batch_size": 4,
    "learning_rate": {"full": 1e-3, "lora": 1e-2},
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "dtype": "float32",
    "fast_layers": True,
    "gradient_checkpointing": False,
    "validation": {"every": 2, "rows": 8, "metric": "nll"},
    "save_every": 2,
}
SFT = COMMON | {"algorithm": "sft", "batch_size": 4, "max_length": 64}
RL = COMMON | {
    "prompts_per_generation": 8,
    "updates_per_generation": 2,
    "iterations": 1,
    "group_size": 4,
    "temperature": 1.0,
    "clip": 0.2,
    "kl": 0.01,
    "advantage": "eq18",
    "advantage_epsilon": 1e-8,
    "samples": {"every": 2, "count": 3},
    "max_completion_tokens": 48,
    "rewards": {"accuracy": 1.0, "format": 0.0, "length": 0.5},  # a random model is never right, but sometimes ends early
    "rollouts": "transformers",
}
OBJECTIVES = {"sft": SFT, "grpo": RL | {"algorithm": "grpo"}, "gspo": RL | {"algorithm": "gspo"}}


def run(folder, model_folder, corpus_files, objective, placement="criterion", allocation=(), seed=0, **change):
    settings = {"run": "r", "seed": seed, "placement": placement, "objective": OBJECTIVES[objective] | change, "grading": GRADING}
    settings["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.0}
    train.run(
        argparse.Namespace(
            settings=settings,
            model=model_folder,
            train=corpus_files[0],
            val=corpus_files[1],
            allocation=list(allocation),
            programs=[],
            out=folder / "policy",
            history=folder / "history.parquet",
            trainable=folder / "trainable.json",
            samples=folder / "samples.parquet",
            state=folder / "state",
            workers=1,
        )
    )
    return history.read(folder / "history.parquet").to_pylist()


def adapter(folder):
    return load_file(folder / "policy" / "adapter_model.safetensors")
