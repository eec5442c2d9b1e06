"""A small Qwen2 trained from scratch on a corpus with TRL's SFTTrainer: the embedded default's base model.

Not part of the paper, which starts from Qwen2.5; it lets the whole pipeline run without a download.
"""

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from hybrid_lora.common import code
from hybrid_lora.common.files import directory_artifact
from hybrid_lora.common.state import close_state, open_state, published
from hybrid_lora.contracts import corpus
from hybrid_lora.model import publish, tokenizer
from hybrid_lora.modeling import batches, resuming, trainer

ENTRY = "hybrid_lora.model.pretrain"


class PretrainingTrainer(resuming.ExactResume, SFTTrainer):
    """TRL's trainer, resumed exactly."""


def run(settings, train, out, state):
    """settings: {name, tokenizer, architecture, pretraining} of config `models`; train: corpus Parquet."""
    closure = code.sources(ENTRY)
    if published(state, [out / "manifest.json"], settings, {"train": train}, closure):
        return
    work = open_state(state, settings, [train], closure)
    rows = corpus.read(train)
    words = tokenizer.train([row["messages"] for row in rows], **settings["tokenizer"])
    options = settings["pretraining"]
    torch.manual_seed(options["seed"])
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words),
            eos_token_id=words.eos_token_id,
            bos_token_id=None,
            pad_token_id=words.pad_token_id,
            tie_word_embeddings=True,
            **settings["architecture"],
        )
    )
    print(f"{model.num_parameters():,} parameters, {len(words)} tokens, {len(rows):,} conversations", flush=True)
    record = trainer.Record("pretraining", show=("loss", "mean_token_accuracy"))
    sft = PretrainingTrainer(
        model,
        args=_arguments(options, work),
        train_dataset=_dataset(rows, words, options["max_length"]),
        processing_class=words,
        callbacks=[record],
    )
    resuming.train(record.quiet(sft), record.what)
    with directory_artifact(out) as folder:
        model.generation_config.eos_token_id = words.eos_token_id
        model.float().save_pretrained(folder)
        words.save_pretrained(folder)
        publish.describe(folder, settings["name"], None, "model.pretrain", settings, {"train": train})
    close_state(work)


def _dataset(rows, words, max_length):
    encoded = [batches.encode(words, row["messages"], max_length) for row in rows]
    labels = [[-100] * prompt + ids[prompt:] for ids, prompt in encoded]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in encoded], "labels": labels})


def _arguments(options, work):
    steps = options["steps"]
    return SFTConfig(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=options["batch_size"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=options["warmup_steps"],
        weight_decay=0.01,
        seed=options["seed"],
        train_sampling_strategy="sequential",  # the corpus is shuffled; batches of one length would be of one subject,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=max(1, steps // 5),  # at most a fifth is lost
        **trainer.QUIET,
    )
