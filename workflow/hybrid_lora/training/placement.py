"""Placements: which modules train in full and which with LoRA, as a PEFT configuration and as counts.

full: every parameter of the model; lora: LoRA on all candidates; lora-ffn: all attention linears in full and LoRA on the
FFN's (Section 4.4, no score, no budget); criterion: what the allocation JSON says.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.modeling import candidates, hybrid

PLACEMENTS = ("full", "lora", "lora-ffn", "criterion")
ATTENTION = ("q", "k", "v", "o")


def peft_config(model, placement, lora, allocation=None):
    """peft.LoraConfig, or None where every parameter is trained.

    placement: one of PLACEMENTS; lora: {rank, alpha, dropout}; allocation: path, for criterion.
    Raises UserError if the allocation was made for a model of another architecture, or is missing.
    """
    if placement not in PLACEMENTS:
        raise UserError(f"training settings: key 'placement' is {placement!r}; allowed: {', '.join(PLACEMENTS)}")
    if placement == "full":
        return None
    if placement != "criterion":
        return _fixed(model, placement, lora)
    if allocation is None:
        raise UserError("training settings: placement 'criterion' needs an allocation file; give it with --allocation")
    chosen = allocation_file.read(allocation)
    if chosen["model"]["architecture_sha256"] != candidates.architecture_sha256(model):
        raise UserError(f"{allocation}: made for model {chosen['model']['id']} of another architecture than this run's")
    hybrid.check_names(model, [*chosen["fft"], *chosen["lora"]["names"]], allocation)
    return hybrid.lora_config(chosen["lora"], chosen["fft"])


def _fixed(model, placement, lora):
    """The configuration of a placement that needs no score: lora or lora-ffn."""
    if not lora:
        raise UserError(f"training settings: key 'lora' is missing; placement '{placement}' needs rank, alpha, dropout")
    in_full = ATTENTION if placement == "lora-ffn" else ()
    found = candidates.find(model)
    fft = [c.module for c in found if c.type in in_full]
    return hybrid.lora_config({**lora, "names": [c.module for c in found if c.type not in in_full]}, fft)


def trainable_counts(model):
    """{fft, lora, total, all}: trainable parameters by kind, their sum, and all parameters of the original model."""
    full, lora = (sum(p.numel() for p in group) for group in hybrid.split_parameters(model))
    extra = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name or ".modules_to_save." in name)
    return {"fft": full, "lora": lora, "total": full + lora, "all": sum(p.numel() for p in model.parameters()) - extra}
