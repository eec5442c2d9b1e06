"""What tests of RL on the tiny Qwen2 share: an objective, and the real trainer built as the training stage builds it."""

from objective_settings import GRADING, LORA, RL

from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import candidates, fast_layers, hybrid, load, trainer
from hybrid_lora.objectives import rl

FFT = ["model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"]
OBJECTIVE = RL | {
    "algorithm": "grpo",
    "max_completion_tokens": 24,
    "rewards": {"accuracy": 0.0, "format": 0.0, "length": 1.0},
    "save_every": 100,
}


def build(model_folder, corpus_file, work, placement="hybrid", seed=0, callbacks=(), **change):
    """(trainer, record) of a run; placement: full | lora | hybrid."""
    settings = OBJECTIVE | change
    model = load.model(model_folder, "float32" if placement == "full" else settings["dtype"])
    fft = FFT if placement == "hybrid" else ()
    names = [c.module for c in candidates.find(model) if c.module not in fft]
    peft = None if placement == "full" else hybrid.lora_config(LORA | {"names": names}, fft)
    record = trainer.Record("training")
    rows, words = corpus.read(corpus_file), load.tokenizer(model_folder)
    built = rl.build(model, peft, words, rows, settings, seed, work, [record, *callbacks], GRADING, 1, "r")
    hybrid.to_fp32_trainable(built.model)
    if settings["fast_layers"]:
        fast_layers.apply_to(built)
    return record.quiet(built), record
