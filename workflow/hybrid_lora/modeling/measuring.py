"""The probe while it is measured: only e may get a gradient, so a branch saves [tokens, r] and nothing else.

Same function as `svd_lora.SVDLoRALinear` (Eq. 7); what differs is how it is computed. In the forward pass the branch is
added onto the base's output in place; the backward pass adds the branch's share onto dx in place, and the gradient of e
comes from xA and dy B^T, both [tokens, r]. Weights are frozen, so no weight gradient is ever made.

The two complementary passes of Algorithm 1 can run side by side as the halves of one doubled batch: sequences do not
see one another, and every module's branch is applied to the rows of the one half in which it is active. That is the same
arithmetic with half as many kernel launches, which is what a GPU waits for here. Norms, gated activations and rotary
embeddings run fused there (`fused`).
"""

import contextlib
import functools

import torch
import torch.nn.functional as F

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import fused, patching


class _Branch(torch.autograd.Function):
    """x W + b + (x A * scale) B on `rows`, x W + b elsewhere, with scale = alpha * e; only x gets a gradient here.

    `factors` is (A, scale * B, (A * scale)^T, B^T). The backward pass leaves (xA, d loss / d (xA * scale)) with `keep`,
    from which `Halves.gradients` makes the gradient of e: of all branches at once, as each alone would be four small
    kernels. Shapes: x [T, in], A [in, r], B [r, out].
    """

    @staticmethod
    def forward(ctx, x, e, weight, bias, factors, start, count, keep, shared):
        out, xA = _apply(x, weight, bias, factors, start, count)
        ctx.save_for_backward(xA, weight, *factors[2:])
        ctx.rows, ctx.keep, ctx.shared = (start, count), keep, shared
        return out

    @staticmethod
    def backward(ctx, dout):
        xA, weight, scaled_A_T, B_T = ctx.saved_tensors
        dscaled = dout.narrow(0, *ctx.rows) @ B_T
        ctx.keep(xA, dscaled)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.shared.add(dout, weight, ctx.rows, dscaled, scaled_A_T)
        return dx, None, None, None, None, None, None, None, None


class _Shared:
    """dx of the branches that read the same x (q, k, v; gate, up), summed in place: the last one hands it on."""

    def __init__(self):
        self.waiting, self.dx = 0, None

    def add(self, dout, weight, rows, dscaled, scaled_A_T):
        """Add one branch's dx [T, in]; returns the sum after the last branch, else None."""
        self.dx = dout @ weight if self.dx is None else self.dx.addmm_(dout, weight)
        self.dx.narrow(0, *rows).addmm_(dscaled, scaled_A_T)
        self.waiting -= 1
        if self.waiting:
            return None
        dx, self.dx = self.dx, None
        return dx


def _apply(x, weight, bias, factors, start, count):
    out = F.linear(x, weight, bias)
    xA = x.narrow(0, start, count) @ factors[0]
    out.narrow(0, start, count).addmm_(xA, factors[1])
    return out, xA


class Halves:
    """Which half of a doubled batch each branch is active in, and the gradients that a backward pass left behind.

    While `of` is empty, branches are active everywhere or nowhere, by `svd_lora.set_active`.
    """

    def __init__(self, branches):
        self.branches, self.of, self.kept = branches, {}, {}
        self.read = self.shared = None

    def split(self, second):
        """Put the branches of the names in `second` on the second half of the batch, all others on the first."""
        self.of = {name: int(name in second) for name in self.branches}
        self.kept = {}

    def reading(self, x):
        """The `_Shared` of the branches that read the tensor x one after the other."""
        if self.read is not x:  # held here alone: a graph that held x would keep what checkpointing lets go
            self.read, self.shared = x, _Shared()
        self.shared.waiting += 1
        return self.shared

    def gradients(self):
        """Gradients of e [branches, r], float32 or wider, on the device, from the last backward pass.

        UserError where a module has none: its output goes nowhere, as in layers that take keys and values from another one.
        """
        unused = next((name for name in self.branches if name not in self.kept), None)
        if unused:
            raise UserError(f"module {unused} has no part in the loss, so it cannot be scored; this decoder is not supported")
        xA = torch.stack([self.kept[name][0] for name in self.branches])
        dscaled = torch.stack([self.kept[name][1] for name in self.branches])
        self.of, self.kept, self.read, self.shared = {}, {}, None, None
        wide = torch.promote_types(xA.dtype, torch.float32)
        alpha = torch.stack([branch.alpha.detach() for branch in self.branches.values()])
        return torch.einsum("ntr,ntr->nr", xA.to(wide), dscaled.to(wide)) * alpha[:, None]


@contextlib.contextmanager
def measuring(model, branches, fuse=True):
    """Within the block: all parameters frozen but every e, branches computed as above, fused kernels on a GPU.

    branches: of svd_lora.attach; their A, B, e and alpha must not change within the block. fuse: False leaves
    transformers' own elementwise operations alone. Yields a `Halves`.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    halves = Halves(branches)
    with patching.Patches() as patches:
        for name, branch in branches.items():
            branch.e.requires_grad_(True)
            patches.set(branch, "forward", functools.partial(_forward, name, branch, halves, _factors(branch)))
        if fuse and next(model.parameters()).is_cuda:
            fused.apply(model, patches)
        yield halves


@torch.no_grad()
def _factors(branch):
    """(A, scale * B, (A * scale)^T, B^T) in the base's dtype, made once instead of at every call."""
    dtype, scale = branch.base.weight.dtype, branch.alpha * branch.e
    A, B = branch.A.to(dtype), branch.B.to(dtype)
    return A, (scale[:, None] * branch.B).to(dtype), (branch.A * scale).to(dtype).T, B.T


def _forward(name, branch, halves, factors, x):
    base, flat = branch.base, x.reshape(-1, x.shape[-1])
    start, count = 0, len(flat)
    if name in halves.of:
        count //= 2
        start = count * halves.of[name]
    elif not branch.active:
        return base(x)
    if torch.is_grad_enabled():
        keep = functools.partial(_keep, halves.kept, name)
        out = _Branch.apply(flat, branch.e, base.weight, base.bias, factors, start, count, keep, halves.reading(x))
    else:
        out, _ = _apply(flat, base.weight, base.bias, factors, start, count)
    return out.view(*x.shape[:-1], out.shape[-1])


def _keep(kept, name, xA, dscaled):
    kept[name] = xA, dscaled
