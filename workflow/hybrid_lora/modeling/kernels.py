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


@triton.jit
def _pair_kernel(both, out, count, width: tl.constexpr, block: tl.constexpr):
    """both: [rows, 2 * width], gate beside up; out: [rows, width]."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    keep = at < count
    where = at + (at // width) * width
    g = tl.load(both + where, mask=keep).to(tl.float32)
    u = tl.load(both + where + width, mask=keep).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=keep)


@triton.jit
def _pair_back_kernel(dout, both, dboth, count, width: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    keep = at < count
    where = at + (at // width) * width
    d = tl.load(dout + at, mask=keep).to(tl.float32)
    g = tl.load(both + where, mask=keep).to(tl.float32)
    u = tl.load(both + where + width, mask=keep).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(dboth + where + width, (d * g * s).to(dboth.dtype.element_ty), mask=keep)
    tl.store(dboth + where, (d * u * s * (1 + g * (1 - s))).to(dboth.dtype.element_ty), mask=keep)


def swiglu_of_pair(both):
    """silu(gate) * up [rows, width] of gate and up side by side, contiguous [rows, 2 * width]; outside autograd."""
    rows, width = both.shape[0], both.shape[1] // 2
    out = both.new_empty(rows, width)
    _pair_kernel[(triton.cdiv(out.numel(), BLOCK),)](both, out, out.numel(), width, BLOCK, num_warps=8)
    return out


def swiglu_of_pair_backward(dout, both):
    """Gradients of gate and up, side by side; dout contiguous [rows, width]."""
    dboth = torch.empty_like(both)
    count, width = dout.numel(), dout.shape[1]
    _pair_back_kernel[(triton.cdiv(count, BLOCK),)](dout, both, dboth, count, width, BLOCK, num_warps=8)
    return dboth


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        count = gate.numel()
        _swiglu_kernel[(triton.cdiv(count, BLOCK),)](gate, up, out, count, BLOCK, num_warps=8)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx, dout):
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        count = gate.numel()
        grid = (triton.cdiv(count, BLOCK),)
        _swiglu_back_kernel[grid](dout.contiguous(), gate, up, dgate, dup, count, BLOCK, num_warps=8)
        return dgate, dup


def swiglu(gate, up):
    """silu(gate) * up, any shape, gradients of both."""
    return _SwiGLU.apply(gate, up)


@triton.jit
def _rotate_kernel(
    q, k, q_out, k_out, cos, sin, length, cos_batch, q_step, k_step, sign, q_heads: tl.constexpr, k_heads: tl.constexpr,
    half: tl.constexpr, q_block: tl.constexpr, k_block: tl.constexpr,
):  # fmt: skip
    """One program a token: all its heads, [heads, 2 * half] each, q_step or k_step elements after those of the token before;
    outputs contiguous; cos and sin [batch, length, 2 * half]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, half)
    where = (token // length) * cos_batch + (token % length) * 2 * half + column
    c = tl.load(cos + where).to(tl.float32)[None, :]
    s = tl.load(sin + where).to(tl.float32)[None, :] * sign
    row = tl.arange(0, q_block)[:, None]
    at = token * q_heads * 2 * half + row * 2 * half + column[None, :]
    inside = token * q_step + row * 2 * half + column[None, :]
    a = tl.load(q + inside, mask=row < q_heads).to(tl.float32)
    b = tl.load(q + inside + half, mask=row < q_heads).to(tl.float32)
    tl.store(q_out + at, (a * c - b * s).to(q_out.dtype.element_ty), mask=row < q_heads)
    tl.store(q_out + at + half, (b * c + a * s).to(q_out.dtype.element_ty), mask=row < q_heads)
    row = tl.arange(0, k_block)[:, None]
    at = token * k_heads * 2 * half + row * 2 * half + column[None, :]
    inside = token * k_step + row * 2 * half + column[None, :]
    a = tl.load(k + inside, mask=row < k_heads).to(tl.float32)
    b = tl.load(k + inside + half, mask=row < k_heads).to(tl.float32)
    tl.store(k_out + at, (a * c - b * s).to(k_out.dtype.element_ty), mask=row < k_heads)
    tl.store(k_out + at + half, (b * c + a * s).to(k_out.dtype.element_ty), mask=row < k_heads)


def _rotated(q, k, cos, sin, sign):
    """q, k: [batch, heads, length, size], in memory [batch, length, heads, size], as projections leave them."""
    q, k = _by_token(q), _by_token(k)
    q_out, k_out = q.new_empty(q.shape), k.new_empty(k.shape)
    batch, length, q_heads, size = q.shape
    k_heads, cos_batch = k.shape[2], 0 if cos.shape[0] == 1 else cos.stride(0)
    blocks = triton.next_power_of_2(q_heads), triton.next_power_of_2(k_heads)
    _rotate_kernel[(batch * length,)](
        q, k, q_out, k_out, cos, sin, length, cos_batch, q.stride(1), k.stride(1), sign, q_heads, k_heads, size // 2, *blocks,
        num_warps=4,
    )  # fmt: skip
    return q_out.transpose(1, 2), k_out.transpose(1, 2)


def _by_token(x):
    """[batch, length, heads, size] of x [batch, heads, length, size]; a token's heads side by side, tokens at equal steps."""
    x = x.transpose(1, 2)
    step = x.stride(1)
    side_by_side = x.stride(3) == 1 and x.stride(2) == x.shape[3] and x.stride(0) == x.shape[1] * step
    return x if side_by_side else x.contiguous()


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
