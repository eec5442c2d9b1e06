"""Placements: which modules train in full and which with LoRA, as a PEFT configuration and as counts.

full: every parameter of the model; lora: LoRA on all candidates; criterion: what the allocation JSON says.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.modeling import candidates, hybrid


def peft_config(model, placement, lora, allocation=None):
    """peft.LoraConfig, or None where every parameter is trained.

    placement: full | lora | criterion; lora: {rank, alpha, dropout}; allocation: path, for criterion.
    Raises UserError if the allocation was made for a model of another architecture.
    """
    if placement == "full":
        return None
    if placement == "lora":
        return hybrid.lora_config({**lora, "names": [c.module for c in candidates.find(model)]})
    chosen = allocation_file.read(allocation)
    if chosen["model"]["architecture_sha256"] != candidates.architecture_sha256(model):
        raise UserError(f"{allocation}: made for model {chosen['model']['id']} of another architecture than this run's")
    hybrid.check_names(model, [*chosen["fft"], *chosen["lora"]["names"]], allocation)
    return hybrid.lora_config(chosen["lora"], chosen["fft"])


def trainable_counts(model):
    """{fft, lora, total, all}: trainable parameters by kind, their sum, and all parameters of the original model."""
    full, lora = (sum(p.numel() for p in group) for group in hybrid.split_parameters(model))
    extra = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name or ".modules_to_save." in name)
    return {"fft": full, "lora": lora, "total": full + lora, "all": sum(p.numel() for p in model.parameters()) - extra}
