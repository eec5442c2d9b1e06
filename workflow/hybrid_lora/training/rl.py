"""GRPO and GSPO with TRL's GRPOTrainer (Appendix B.2).

GRPO averages clipped token ratios per sequence (loss_type "grpo"); GSPO is the same with one ratio a sequence. With one
optimizer step per generation the ratio is 1 and both are equal: `updates_per_generation` or `iterations` must exceed 1
for them to differ. Departure: advantages are TRL's (Bessel-corrected deviation + 1e-4), not yet Eq. 18's.
"""

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import trainer
from hybrid_lora.training import rewards
from hybrid_lora.training.optimizer import TwoRates


class RLTrainer(TwoRates, GRPOTrainer):
    """TRL's trainer with two learning rates."""


def build(model, peft, words, rows, settings, seed, work, callbacks, grading, workers):
    """The trainer. settings: one entry of config `objectives`; rows: corpus rows; seed: the run's."""
    usable = rewards.verifiable(rows, settings["sources"])
    if not usable:
        raise UserError(f"corpus {settings['corpus']}: no row of sources {', '.join(settings['sources'])} can be verified")
    functions, weights = rewards.functions(settings["rewards"], grading, settings["max_completion_tokens"], workers)
    if not functions:
        raise UserError("objectives.*.rewards: all weights are zero; give at least one of accuracy, format, length")
    built = RLTrainer(
        model,
        reward_funcs=functions,
        args=_arguments(settings, derive(seed, "training") % 2**31, work, weights),
        train_dataset=_dataset(usable, settings, seed),
        processing_class=words,
        callbacks=callbacks,
        peft_config=peft,
    )
    built.learning_rates = settings["learning_rate"]
    return built


def _dataset(rows, settings, seed):
    """Exactly the prompts that training will ask for, epochs laid end to end.

    Each epoch is a permutation from (seed, epoch). Everything is TRL's epoch 0, inside which its resume is exact.
    """
    generations = -(-settings["steps"] // (settings["updates_per_generation"] * settings["iterations"]))
    needed = generations * settings["prompts_per_generation"]
    order = []
    for epoch in range(-(-needed // len(rows))):
        generator = torch.Generator().manual_seed(derive(seed, "prompt-order", epoch))
        order += torch.randperm(len(rows), generator=generator).tolist()
    chosen = [rows[i] for i in order[:needed]]
    return Dataset.from_dict(
        {
            "prompt": [row["messages"][:-1] for row in chosen],
            "row_kind": [rewards.kind(row) for row in chosen],
            "gold": [row["gold"] for row in chosen],
            "tests": [row["tests"] for row in chosen],
        }
    )


def _arguments(settings, seed, work, weights):
    size = settings["device_batch_size"]
    completions = settings["prompts_per_generation"] * settings["group_size"]
    bf16 = settings["precision"] == "bf16"
    return GRPOConfig(
        output_dir=str(work),
        max_steps=settings["steps"],
        per_device_train_batch_size=size,
        gradient_accumulation_steps=completions // settings["updates_per_generation"] // size,
        steps_per_generation=completions // size,
        num_generations=settings["group_size"],
        num_iterations=settings["iterations"],
        temperature=settings["temperature"],
        max_completion_length=settings["max_completion_tokens"],
        beta=settings["kl"],
        epsilon=settings["clip"],
        loss_type="grpo",
        importance_sampling_level="sequence" if settings["algorithm"] == "gspo" else "token",
        scale_rewards="group",
        use_bias_correction_kl=False,  # the plain k3 estimator
        reward_weights=weights,
        shuffle_dataset=False,  # _dataset is in order already
        learning_rate=settings["learning_rate"]["full"],
        lr_scheduler_type=settings["schedule"],
        warmup_steps=settings["warmup_steps"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        bf16=bf16,
        gradient_checkpointing=settings["gradient_checkpointing"],
        use_vllm=settings["rollouts"] == "vllm",
        vllm_mode="colocate",
        vllm_importance_sampling_mode="token_truncate",
        seed=seed,
        save_strategy="steps",
        save_steps=settings["save_every"],
        save_total_limit=2,
        **trainer.QUIET,
    )
