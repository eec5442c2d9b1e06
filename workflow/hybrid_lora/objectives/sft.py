"""Supervised fine-tuning on verified traces with TRL's SFTTrainer (Table 1's SFT row), loss on the assistant's part."""

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import batches, load, trainer
from hybrid_lora.modeling.resuming import ExactResume
from hybrid_lora.objectives import reporting
from hybrid_lora.objectives.optimizer import TwoRates


class SupervisedTrainer(ExactResume, TwoRates, SFTTrainer):
    """TRL's trainer with two learning rates."""


def build(model, peft, words, rows, settings, seed, work, callbacks, run):
    """The trainer. settings: one entry of config `objectives`; rows: corpus rows; seed, run: the run's seed and name."""
    built = SupervisedTrainer(
        model,
        args=_arguments(settings, derive(seed, "training") % 2**31, work, run),
        train_dataset=_dataset(rows, words, settings, seed),
        processing_class=words,
        callbacks=callbacks,
        peft_config=peft,
    )
    built.learning_rates = settings["learning_rate"]
    return built


def _dataset(rows, words, settings, seed):
    """Exactly the sequences that training will see, in order; each epoch is a permutation from (seed, epoch)."""
    encoded = [
        batches.encode(words, row["messages"], settings["max_length"]) for row in rows if row["source"] in settings["sources"]
    ]
    encoded = [(ids, prompt) for ids, prompt in encoded if prompt < len(ids)]
    if not encoded:
        raise UserError(f"corpus {settings['corpus']}: no row of sources {', '.join(settings['sources'])} fits max_length")
    needed, order = settings["steps"] * settings["batch_size"], []
    for epoch in range(-(-needed // len(encoded))):
        generator = torch.Generator().manual_seed(derive(seed, "sequence-order", epoch))
        order += torch.randperm(len(encoded), generator=generator).tolist()
    chosen = [encoded[i] for i in order[:needed]]
    return Dataset.from_dict(
        {"input_ids": [ids for ids, _ in chosen], "labels": [[-100] * prompt + ids[prompt:] for ids, prompt in chosen]}
    )


def _arguments(settings, seed, work, run):
    size = settings["device_batch_size"]
    return trainer.on_one_gpu(
        SFTConfig(
            output_dir=str(work),
            max_steps=settings["steps"],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=trainer.share(settings["batch_size"], size, "batch_size", "device_batch_size") // size,
            learning_rate=settings["learning_rate"]["full"],
            lr_scheduler_type=settings["schedule"],
            warmup_steps=settings["warmup_steps"],
            weight_decay=settings["weight_decay"],
            max_grad_norm=settings["max_grad_norm"],
            bf16=settings["precision"] == "bf16",
            use_cpu=load.device().type == "cpu",  # without it bf16 asks for a GPU
            gradient_checkpointing=settings["gradient_checkpointing"],
            gradient_checkpointing_kwargs=trainer.recomputation(),
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            seed=seed,
            save_strategy="steps",
            save_steps=settings["save_every"],
            **trainer.QUIET | reporting.arguments(run),
        )
    )
