"""What tests of RL on the tiny Qwen2 share: an objective, and the real trainer built as the training stage builds it."""

from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import candidates, hybrid, load, trainer
from hybrid_lora.objectives import rl

GRADING = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
OBJECTIVE = {
    "algorithm": "grpo",
    "corpus": "tiny",
    "sources": ["math"],
    "steps": 4,
    "prompts_per_generation": 8,
    "updates_per_generation": 2,
    "iterations": 1,
    "group_size": 4,
    "temperature": 1.0,
    "clip": 0.2,
    "kl": 0.01,
    "advantage": "eq18",
    "advantage_epsilon": 1e-8,
    "max_completion_tokens": 24,
    "rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0},  # a random model is never right, but sometimes ends early
    "rollouts": "transformers",
    "device_batch_size": 4,
    "learning_rate": {"full": 1e-3, "lora": 1e-2},
    "schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "dtype": "float32",
    "gradient_checkpointing": False,
    "save_every": 100,
}


def build(model_folder, corpus_file, work, placement="hybrid", seed=0, callbacks=(), **change):
    """(trainer, record) of a run; placement: full | lora | hybrid."""
    settings = OBJECTIVE | change
    model = load.model(model_folder, "float32" if placement == "full" else settings["dtype"])
    fft = FFT if placement == "hybrid" else ()
    names = [c.module for c in candidates.find(model) if c.module not in fft]
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "names": names}
    peft = None if placement == "full" else hybrid.lora_config(lora, fft)
    record = trainer.Record("training")
    rows, words = corpus.read(corpus_file), load.tokenizer(model_folder)
    built = rl.build(model, peft, words, rows, settings, seed, work, [record, *callbacks], GRADING, 1, "r")
    hybrid.to_fp32_trainable(built.model)
    return record.quiet(built), record
