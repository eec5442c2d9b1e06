"""Loading a model folder: weights, tokenizer, or only the shape on the meta device. Never asks the hub."""

import functools
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import candidates

disable_progress_bar()  # bars of fractions of a second clutter the logs
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device():
    """The GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model(folder, dtype="float32"):
    """The causal language model in `folder` with weights of `dtype` (float32 | bfloat16), on the CPU."""
    return _local(folder, lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True))


def keep_savable(model):
    """Make sure that a model that will be saved whole can be.

    A trainer sets special tokens of the generation configuration, and transformers saves none that was changed and
    contradicts itself (a temperature without sampling, as some published ones have it). Of such a one only these stay.
    """
    own = model.generation_config
    try:
        own.validate(strict=True)
    except ValueError as error:
        tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)
        reason = str(error).strip().splitlines()[1].removeprefix("- ").partition(".")[0]
        print(f"{model.name_or_path}: generation_config.json contradicts itself ({reason}); its special tokens alone are kept")


def shape(folder):
    """The model in `folder` on the meta device: names and shapes, no weights."""

    def made():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    return _local(folder, made)


def later(tensor):
    """Start copying a tensor to the CPU; returns a function that waits for the copy, not for what a GPU does after it."""
    if not tensor.is_cuda:
        return lambda: tensor
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait():
        copied.synchronize()
        return copy

    return wait


def set_checkpointing(model, on):
    """Recompute activations of decoder layers in the backward pass, whether the model is in training mode or not.

    transformers does so in training mode only; the probe's measurements run in evaluation mode, without dropout.
    """
    for layer in candidates.decoder(model).layers:
        vars(layer).pop("forward", None)
        if on:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def tokenizer(folder):
    """The tokenizer in `folder`; UserError without a chat template, as every stage renders conversations."""
    found = _local(folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))
    if not found.chat_template:
        raise UserError(f"{folder}: the tokenizer has no chat template; use an instruct model or add chat_template.jinja")
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found


def _local(folder, load):
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: not a model folder (config.json is missing)")
    try:
        return load()
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        first, *more = str(error).strip().splitlines()
        reason = f"{first} {more[0].strip()}" if more and first.endswith(":") else first
        raise UserError(f"{folder}: cannot be loaded ({reason})") from None
