"""The products of `fast_layers`: linears that read one input as one matrix product, and a gated MLP as one function.

Computed from a group's W [O, in], bias [O], A, scaled_A [R, in] and B, scaled_B [O, R] (see `fast_layers`); T tokens, the
reference policy in the same shapes and order as the policy, so that both round alike.
"""

import functools

import torch
import torch.nn.functional as F


def linears(group, x, frozen=False):
    """Outputs [..., out] of a group's members; frozen: of the frozen weights alone, without gradients."""
    if not frozen:
        return _Linears.apply(group, x, *group.trained)
    out = F.linear(x.reshape(-1, x.shape[-1]), *group.frozen())
    return _by_member(group, out, x.shape[:-1])


def gated_mlp(first, second, x, frozen=False):
    """down(silu(gate(x)) * up(x)) of the groups gate, up and down; frozen: as for `linears`."""
    if not frozen:
        return _GatedMLP.apply(first, second, x, *first.trained, *second.trained)
    both = F.linear(x.reshape(-1, x.shape[-1]), *first.frozen())
    return F.linear(_swiglu(both), *second.frozen()).unflatten(0, x.shape[:-1])


def _by_member(group, out, shape):
    return tuple(out[:, row].unflatten(0, shape) for row in group.rows)


class _Linears(torch.autograd.Function):
    """All outputs of linears that read x [..., in]; gradients of x and of the trained weights."""

    @staticmethod
    def forward(ctx, group, x, *trained):
        x_TD = x.reshape(-1, x.shape[-1])
        out, xA = _outputs(group, x_TD)
        ctx.save_for_backward(x_TD, xA)
        ctx.group, ctx.shape = group, x.shape
        return _by_member(group, out, x.shape[:-1])

    @staticmethod
    def backward(ctx, *gradients):
        douts = [dout.reshape(-1, dout.shape[-1]) for dout in gradients]
        dout = douts[0] if len(douts) == 1 else torch.cat(douts, 1)
        dx, found = _gradients(ctx.group, *ctx.saved_tensors, dout, ctx.needs_input_grad[1])
        return None, None if dx is None else dx.view(ctx.shape), *found


class _GatedMLP(torch.autograd.Function):
    """The product of gate and up is not kept but made again in the backward pass."""

    @staticmethod
    def forward(ctx, first, second, x, *trained):
        x_TD = x.reshape(-1, x.shape[-1])
        both, xA = _outputs(first, x_TD)
        out, hA = _outputs(second, _swiglu(both))
        ctx.save_for_backward(x_TD, xA, both, hA)
        ctx.groups, ctx.shape = (first, second), x.shape
        return out.view(x.shape[:-1] + out.shape[-1:])

    @staticmethod
    def backward(ctx, dout):
        x_TD, xA, both, hA = ctx.saved_tensors
        first, second = ctx.groups
        dhidden, of_second = _gradients(second, _swiglu(both), hA, dout.reshape(-1, dout.shape[-1]), True)
        dx, of_first = _gradients(first, x_TD, xA, _swiglu_back(dhidden, both), ctx.needs_input_grad[2])
        return None, None, None if dx is None else dx.view(ctx.shape), *of_first, *of_second


def _outputs(group, x_TD):
    """(outputs [T, O] of all members, scale * x A^T [T, R] or None).

    A LoRA member: x W + b + scale (x A^T) B^T with A [r, in], B [out, r] (PEFT's layout); W and b are frozen. A member
    trained in full: x W + b.
    """
    out = F.linear(x_TD, group.W, group.bias)
    if group.A is None:
        return out, None
    xA = torch.mm(x_TD, group.scaled_A.t())
    return out.addmm_(xA, group.B.t()), xA


def _gradients(group, x_TD, xA, dout, needs_dx):
    """(dx or None, gradients in the order of `group.trained`) from that of the outputs [T, O]."""
    dx = torch.mm(dout, group.W) if needs_dx else None
    dA = dB = None
    if xA is not None:
        dxA = torch.mm(dout, group.scaled_B)
        if needs_dx:
            dx.addmm_(dxA, group.A)
        dA, dB = _product(dxA.t(), x_TD), _product(dout.t(), xA)
    found = []
    for row, column, bias in zip(group.rows, group.columns, group.trained[1::2]):
        if column.start != column.stop:
            found += [dA[column], dB[row, column]]
            continue
        own = dout[:, row]
        found += [_product(own.t(), x_TD), None if bias is None else own.sum(0, dtype=_wide(dout))]
    return dx, found


def _swiglu(both):
    """silu(gate) * up [T, F] of gate and up side by side [T, 2 F]."""
    if both.is_cuda:
        return kernels().swiglu_of_pair(both)
    gate, up = both.chunk(2, 1)
    return F.silu(gate) * up


def _swiglu_back(dout, both):
    """Gradients of gate and up, side by side."""
    if both.is_cuda:
        return kernels().swiglu_of_pair_backward(dout, both)
    gate, up = both.chunk(2, 1)
    return torch.cat([torch.ops.aten.silu_backward(dout * up, gate), dout * F.silu(gate)], 1)


@functools.cache
def kernels():
    """The Triton kernels, which only builds of torch for GPUs can load."""
    from hybrid_lora.modeling import kernels

    return kernels


def _wide(tensor):
    return torch.promote_types(tensor.dtype, torch.float32)


def _product(a, b):
    """a @ b in float32 or wider: a gradient of float32 weights, summed over tokens without rounding in between."""
    if a.is_cuda and a.dtype != _wide(a):
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).to(_wide(a))
