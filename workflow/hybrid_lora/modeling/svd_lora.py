"""The probe: SVD-style LoRA on every candidate module (Eq. 7), x' = x W + b + alpha * x A diag(e) B.

W and b are frozen; A, B, e and alpha are trained. A mask switches single branches off (Section 3.3).

The paper does not give initial values. `init.method: lora` (default): A Kaiming-uniform, B zero and e = 1, so the probe
starts as the original model and every component of e carries its branch's whole contribution once B has moved; with e = 0
the score |e * grad e| would be zero before warm-up. `init.method: adalora`: A, B ~ N(0, 0.02) and the given e (0 there).
"""

import math

import torch
from torch import nn

from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import candidates


class SVDLoRALinear(nn.Module):
    """A frozen linear layer with an SVD-LoRA branch; shapes: A [in, r], e [r], B [r, out], alpha []."""

    def __init__(self, base, candidate, rank, init, generator):
        super().__init__()
        self.base, self.candidate = base, candidate
        self.active = True
        self.A = nn.Parameter(torch.empty(base.in_features, rank, dtype=torch.float32))
        self.B = nn.Parameter(torch.zeros(rank, base.out_features, dtype=torch.float32))
        self.e = nn.Parameter(torch.full((rank,), float(init["e"])))
        self.alpha = nn.Parameter(torch.tensor(float(init["alpha"])))
        if init["method"] == "adalora":
            nn.init.normal_(self.A, std=0.02, generator=generator)
            nn.init.normal_(self.B, std=0.02, generator=generator)
        else:  # as peft's LoRA: kaiming_uniform_(a=sqrt(5)) on [r, in] is U(-1/sqrt(in), 1/sqrt(in))
            bound = 1 / math.sqrt(base.in_features)
            nn.init.uniform_(self.A, -bound, bound, generator=generator)

    def forward(self, x):
        """x: [..., in] -> [..., out]; the branch is left out while `active` is False."""
        out = self.base(x)
        if not self.active:
            return out
        dtype = out.dtype
        return out + self.alpha.to(dtype) * (((x @ self.A.to(dtype)) * self.e.to(dtype)) @ self.B.to(dtype))


def attach(model, rank, init, seed):
    """Freeze `model` and put an SVD-LoRA branch on every candidate; returns {exact name: SVDLoRALinear} in candidate order.

    init: {method: lora | adalora, e, alpha}. Each branch's draw depends on (seed, its name) alone.
    """
    model.requires_grad_(False)
    branches = {}
    for candidate in candidates.find(model):
        generator = torch.Generator().manual_seed(derive(seed, "probe-init", candidate.module))
        parent, _, child = candidate.module.rpartition(".")
        owner = model.get_submodule(parent)
        branches[candidate.module] = SVDLoRALinear(getattr(owner, child), candidate, rank, init, generator)
        setattr(owner, child, branches[candidate.module])
    return branches


def set_active(branches, names):
    """Switch on exactly the branches in `names`."""
    for name, branch in branches.items():
        branch.active = name in names


def state(branches):
    """All trained tensors as {"<module>.<A|B|e|alpha>": tensor} on the CPU."""
    return {
        f"{name}.{part}": getattr(branch, part).detach().cpu().contiguous().clone()
        for name, branch in branches.items()
        for part in ("A", "B", "e", "alpha")
    }


def load_state(branches, tensors):
    """Put back what `state` gave; KeyError or RuntimeError if it is of another model."""
    with torch.no_grad():
        for name, branch in branches.items():
            for part in ("A", "B", "e", "alpha"):
                getattr(branch, part).copy_(tensors[f"{name}.{part}"])
