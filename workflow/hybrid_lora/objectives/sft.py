"""Supervised fine-tuning on verified traces with TRL's SFTTrainer (Table 1's SFT row), loss on the assistant's part.

Only the rows that the steps ask for are tokenized and kept, as 32-bit numbers: the paper's corpus is gigabytes of text.
"""

import itertools

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import batches, trainer
from hybrid_lora.modeling.resuming import ExactResume
from hybrid_lora.objectives import reporting
from hybrid_lora.objectives.optimizer import TwoRates
from hybrid_lora.objectives.timing import Weighed


class SupervisedTrainer(ExactResume, TwoRates, Weighed, SFTTrainer):
    """TRL's trainer with two learning rates and its memory in the log."""


def build(model, peft, words, train, settings, seed, work, callbacks, run):
    """The trainer. settings: one entry of config `objectives`; train: corpus file; seed, run: the run's seed and name."""
    built = SupervisedTrainer(
        model,
        args=_arguments(settings, derive(seed, "training") % 2**31, work, run),
        train_dataset=_dataset(train, words, settings, seed),
        processing_class=words,
        callbacks=callbacks,
        peft_config=peft,
    )
    built.learning_rates = settings["learning_rate"]
    return built


def _dataset(train, words, settings, seed):
    """Exactly the sequences that training will see, in order, less those that `max_length` cuts before their answer."""
    numbers = [i for i, row in enumerate(corpus.iterate(train, ("source",))) if row["source"] in settings["sources"]]
    order, needed = _order(numbers, seed), settings["steps"] * settings["batch_size"]
    encoded, chosen = {}, []
    while len(chosen) < needed:
        if len(encoded) == len(numbers) and not any(encoded.values()):
            raise UserError(f"corpus {settings['corpus']}: no row of sources {', '.join(settings['sources'])} fits max_length")
        wanted = list(itertools.islice(order, needed - len(chosen)))
        for i, row in corpus.picked(train, ("messages",), set(wanted) - set(encoded)):
            ids, prompt = batches.encode(words, row["messages"], settings["max_length"])
            encoded[i] = (np.array(ids, dtype=np.int32), prompt) if prompt < len(ids) else None
        chosen += [encoded[i] for i in wanted if encoded[i]]
    labels = [np.where(np.arange(len(ids)) < prompt, np.int32(-100), ids) for ids, prompt in chosen]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in chosen], "labels": labels})


def _order(numbers, seed):
    """The numbers without end; each epoch is a permutation from (seed, epoch)."""
    for epoch in itertools.count() if numbers else ():
        generator = torch.Generator().manual_seed(derive(seed, "sequence-order", epoch))
        yield from (numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist())


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
