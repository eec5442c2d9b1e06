"""The hybrid as one standard PEFT adapter: full fine-tuning by `modules_to_save`, LoRA for the rest (Section 3.4).

PEFT's ModulesToSaveWrapper keeps the frozen original beside the trained copy, so `disable_adapter()` gives the original
policy for the KL term without a second model.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils.constants import DUMMY_TARGET_MODULES

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import load


def lora_config(lora, fft=()):
    """peft.LoraConfig for a placement. lora: {rank, alpha, dropout, names}; fft: names to train in full.

    Names are exact: PEFT matches `modules_to_save` by bare endswith, so anything shorter would catch other layers too.
    Without any LoRA (a budget that holds every module) PEFT is told so: left to itself it would choose modules of its own.
    """
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=list(lora["names"]) or DUMMY_TARGET_MODULES,
        modules_to_save=list(fft) or None,
        task_type="CAUSAL_LM",
        bias="none",
    )


def check_names(model, names, where):
    """UserError if a name in `names` (from the file `where`) is no module of `model`."""
    known = {name for name, _ in model.named_modules()}
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"{where}: module '{missing[0]}' is not in the model; was the allocation made for another one?")


def split_parameters(model):
    """(parameters trained in full, LoRA parameters) of a PEFT model or a plain one (all trainable ones are full)."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    lora = [p for name, p in trainable if ".lora_" in name]
    return [p for name, p in trainable if ".lora_" not in name], lora


def to_fp32_trainable(model):
    """Cast trainable weights to float32: a bf16 AdamW step at lr 1e-6 is under half an ulp for |w| > 5e-4 and is lost."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def load_policy(base, policy=None, dtype="float32"):
    """A plain model ready for inference: the base folder, or the policy folder (PEFT adapter merged, or a full model)."""
    if policy is None:
        return load.model(base, dtype)
    if not (Path(policy) / "adapter_config.json").is_file():
        return load.model(policy, dtype)
    merged = PeftModel.from_pretrained(load.model(base, "float32"), policy).merge_and_unload()  # merging in bf16 drifts
    return merged.to(load.DTYPES[dtype])
