"""Supervised fine-tuning on verified traces with TRL's SFTTrainer (Table 1's SFT row), loss on the assistant's part."""

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import batches, trainer
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
            gradient_accumulation_steps=trainer.share(settings["batch_size"], size, "batch_size", "device_batch_size") // size,
            train_sampling_strategy="sequential",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            **trainer.common(settings, seed, work),
            **trainer.QUIET | reporting.arguments(run),
        )
    )
