"""Entries of config `objectives` for trainings of a tiny model, which tests change to their needs: COMMON, SFT, and RL without
an algorithm. Every length is short, every update large enough to be told from rounding."""

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
GRADING = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
