"""Fused kernels in place of transformers' chains of elementwise operations: norms, gated activations, rotary embeddings.

Each replacement is tried on random numbers against what it replaces and left out where it differs, so a decoder whose
class means something else by these names is measured as it is. Norms are torch's own fused kernel; the other two are in
`kernels`: Liger's do the same, but their launch costs several times the kernel at the sizes measured here.
"""

import functools
import sys

import torch
import torch.nn.functional as F


def apply(model, patches):
    """Replace what can be replaced in a decoder on a GPU; `patches` (patching.Patches) takes it back."""
    from hybrid_lora.modeling import kernels  # needs Triton, which only builds of torch for GPUs have

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            if getattr(module, "weight", None) is None or module.weight.ndim != 1:
                continue  # one without a scale
            _try(patches, module, _norm(module), len(module.weight))
        elif _has_gate(module) and "forward" not in vars(module):
            gate = module.gate_proj
            _try(patches, module, _gated(module, kernels), getattr(gate, "base", gate).in_features)
    home = sys.modules[type(model).__module__]
    theirs = getattr(home, "apply_rotary_pos_emb", None)
    if theirs and _same_rotation(theirs, kernels.rotate):
        patches.set(home, "apply_rotary_pos_emb", rotation(theirs, kernels.rotate))


def rotation(theirs, ours):
    """`ours` where it can, which it says by a ValueError before it does anything (of other head sizes), else `theirs`."""

    @functools.wraps(theirs)
    def rotate(q, k, cos, sin, *args, **kwargs):
        try:
            return ours(q, k, cos, sin, *args, **kwargs)
        except ValueError:
            return theirs(q, k, cos, sin, *args, **kwargs)

    return rotate


def _has_gate(module):
    return all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))


def _norm(module):
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6))

    def forward(x):
        return F.rms_norm(x, x.shape[-1:], module.weight, eps)

    return forward


def _gated(module, kernels):
    def forward(x):
        return module.down_proj(kernels.swiglu(module.gate_proj(x), module.up_proj(x)))

    return forward


def _try(patches, module, forward, width):
    if same(module, forward, width):
        patches.set(module, "forward", forward)


@torch.no_grad()
def same(module, forward, width):
    """Whether `forward` computes on random numbers [2, 4, width] what the module does, up to roundings, also while training:
    a module may have a dropout of its own."""
    weights = list(module.parameters())
    dtype = min((weight.dtype for weight in weights), key=lambda one: torch.finfo(one).bits)
    mixed = any(weight.dtype != dtype for weight in weights)  # trained weights float32 on a bfloat16 base: run under autocast
    device = weights[0].device
    x = torch.randn(2, 4, width, device=device, generator=_random(device)).to(dtype)
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.autocast(device.type, dtype, enabled=mixed):
            return all(_close(forward(x), module.train(mode)(x)) for mode in (True, False))
    finally:
        for part, mode in modes.items():
            part.training = mode


@torch.no_grad()
def _same_rotation(theirs, ours):
    def random(*shape):
        return torch.randn(*shape, device="cuda", generator=generator)

    generator = _random("cuda")
    q, k, angle = random(2, 8, 4, 64).transpose(1, 2), random(2, 8, 2, 64).transpose(1, 2), random(1, 8, 32)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    try:
        return all(_close(a, b) for a, b in zip(ours(q, k, cos, sin), theirs(q, k, cos, sin), strict=True))
    except (TypeError, ValueError, RuntimeError):
        return False


def _random(device):
    return torch.Generator(device).manual_seed(0)


def _close(found, expected):
    """Equal up to a few roundings of their dtype."""
    tolerance = 8 * torch.finfo(expected.dtype).eps
    return torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance * expected.abs().max().item())
