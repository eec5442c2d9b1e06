"""Two Triton kernels, forward and backward, for `fused`: silu(gate) * up, and rotary embedding of queries and keys.

Both are bound by memory: each input is read once and each output written once, arithmetic in float32. Weights are not
involved, so no gradient is summed over tokens and results do not depend on the order in which blocks run.
"""

import torch
import triton
import triton.language as tl

BLOCK = 2048


@triton.jit
def _swiglu_kernel(gate, up, out, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    keep = at < count
    g = tl.load(gate + at, mask=keep).to(tl.float32)
    u = tl.load(up + at, mask=keep).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _swiglu_back_kernel(dout, gate, up, dgate, dup, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    keep = at < count
    d = tl.load(dout + at, mask=keep).to(tl.float32)
    g = tl.load(gate + at, mask=keep).to(tl.float32)
    u = tl.load(up + at, mask=keep).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(dup + at, (d * g * s).to(dup.dtype.element_ty), mask=keep)
    tl.store(dgate + at, (d * u * s * (1 + g * (1 - s))).to(dgate.dtype.element_ty), mask=keep)


def swiglu_forward(gate, up):
    """silu(gate) * up of contiguous tensors, outside autograd."""
    out = torch.empty_like(gate)
    count = gate.numel()
    _swiglu_kernel[(triton.cdiv(count, BLOCK),)](gate, up, out, count, BLOCK, num_warps=8)
    return out


def swiglu_backward(dout, gate, up):
    """Gradients of gate and up, contiguous."""
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    count = gate.numel()
    _swiglu_back_kernel[(triton.cdiv(count, BLOCK),)](dout, gate, up, dgate, dup, count, BLOCK, num_warps=8)
    return dgate, dup


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx, dout):
        return swiglu_backward(dout.contiguous(), *ctx.saved_tensors)


def swiglu(gate, up):
    """silu(gate) * up, any shape, gradients of both."""
    return _SwiGLU.apply(gate, up)


@triton.jit
def _rotate_kernel(
    q, k, q_out, k_out, cos, sin, length, cos_batch, sign, q_heads: tl.constexpr, k_heads: tl.constexpr,
    half: tl.constexpr, q_block: tl.constexpr, k_block: tl.constexpr,
):  # fmt: skip
    """One program a token: all its heads, [heads, 2 * half] each, contiguous; cos and sin [batch, length, 2 * half]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, half)
    where = (token // length) * cos_batch + (token % length) * 2 * half + column
    c = tl.load(cos + where).to(tl.float32)[None, :]
    s = tl.load(sin + where).to(tl.float32)[None, :] * sign
    row = tl.arange(0, q_block)[:, None]
    at = token * q_heads * 2 * half + row * 2 * half + column[None, :]
    a = tl.load(q + at, mask=row < q_heads).to(tl.float32)
    b = tl.load(q + at + half, mask=row < q_heads).to(tl.float32)
    tl.store(q_out + at, (a * c - b * s).to(q_out.dtype.element_ty), mask=row < q_heads)
    tl.store(q_out + at + half, (b * c + a * s).to(q_out.dtype.element_ty), mask=row < q_heads)
    row = tl.arange(0, k_block)[:, None]
    at = token * k_heads * 2 * half + row * 2 * half + column[None, :]
    a = tl.load(k + at, mask=row < k_heads).to(tl.float32)
    b = tl.load(k + at + half, mask=row < k_heads).to(tl.float32)
    tl.store(k_out + at, (a * c - b * s).to(k_out.dtype.element_ty), mask=row < k_heads)
    tl.store(k_out + at + half, (b * c + a * s).to(k_out.dtype.element_ty), mask=row < k_heads)


def _rotated(q, k, cos, sin, sign):
    """q, k: [batch, heads, length, size], in memory [batch, length, heads, size], as projections leave them."""
    q, k = q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous()
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    batch, length, q_heads, size = q.shape
    k_heads, cos_batch = k.shape[2], 0 if cos.shape[0] == 1 else cos.stride(0)
    blocks = triton.next_power_of_2(q_heads), triton.next_power_of_2(k_heads)
    _rotate_kernel[(batch * length,)](
        q, k, q_out, k_out, cos, sin, length, cos_batch, sign, q_heads, k_heads, size // 2, *blocks, num_warps=4
    )
    return q_out.transpose(1, 2), k_out.transpose(1, 2)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, cos, sin):
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        return _rotated(q, k, cos, sin, 1.0)

    @staticmethod
    def backward(ctx, dq, dk):
        return *_rotated(dq, dk, *ctx.saved_tensors, -1.0), None, None


def rotate(q, k, cos, sin, unsqueeze_dim=1):
    """transformers' apply_rotary_pos_emb: (q, k) rotated; q, k [batch, heads, length, size], cos, sin [1 or batch, length, size].

    ValueError for a layout other than heads in the second place, or a head size that is no power of two.
    """
    size = q.shape[-1]
    if unsqueeze_dim != 1 or cos.shape[-1] != size or size & (size - 1):
        raise ValueError(f"rotate: heads of {size} with unsqueeze_dim {unsqueeze_dim} are not supported")
    return _Rotate.apply(q, k, cos, sin)
