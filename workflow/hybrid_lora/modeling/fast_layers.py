"""The hybrid's linears computed faster than PEFT computes them: the same function and gradients, fewer passes over memory.

PEFT adds a LoRA branch with half a dozen small kernels and elementwise passes a module, and autocast casts the weights
trained in full again wherever they are used. Here all linears that read one input (q, k, v; gate and up; o; down) are one
autograd function, `_Linears`: the products x A of its LoRA modules are one product, branches are added in place, the
gradients of the shared input are summed in place, and no more is kept for the backward pass than x, x A and what the
weights are. Trainable weights stay float32 and are cast for compute; their gradients are float32.

PEFT's modules stay where they are and own every weight: saving, merging, `disable_adapter()` and vLLM's weight sync see
what they always saw. A call that is not the plain one (adapter disabled or merged, LoRA dropout, a base of another dtype
than the computation's) goes to PEFT's own forward.
"""

import functools

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.activations import SiLUActivation

from hybrid_lora.modeling import candidates, fused, patching

READERS = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))  # types that read the same input


def apply(model, fuse=True):
    """Compute the candidates of a PEFT model in groups, and fuse elementwise operations on a GPU; returns how many linears.

    Works on a plain model too, where only the elementwise operations change. What a group cannot compute stays PEFT's.
    fuse: False leaves transformers' elementwise operations alone. `remove(model)` takes everything back.
    """
    remove(model)
    patches = model._fast_layers = patching.Patches()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    casts = _Casts(base)
    for group in casts.groups:
        for index, member in enumerate(group.members):
            patches.set(member, "forward", _forward(group, index, member.forward))
    casts.refresh()
    firsts = {id(group.members[0]): group for group in casts.groups}
    for module in base.modules():
        _whole_mlp(patches, module, firsts)
    for handle in casts.watch(base) if casts.groups else ():
        patches.callback(handle.remove)
    if fuse and next(base.parameters()).is_cuda:
        fused.apply(base, patches)
    return sum(len(group.members) for group in casts.groups)


def usable(trainer):
    """Whether a Hugging Face Trainer's model is whole and on a GPU; sharded weights are not where they are expected."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return next(trainer.model.parameters()).is_cuda and not sharded


def remove(model):
    """PEFT's and transformers' own computation again."""
    if patches := vars(model).pop("_fast_layers", None):
        patches.close()


def _readers(base):
    """Lists of wrapped linears of one layer that read the same input."""
    found = {}
    for name, module in base.named_modules():
        part = candidates.SUFFIXES.get(name.rsplit(".", 1)[-1])
        if part and isinstance(module, LoraLinear | ModulesToSaveWrapper):
            found.setdefault(name.rsplit(".", 1)[0], {})[part] = module
    for parts in found.values():
        for together in READERS:
            if members := [parts[part] for part in together if part in parts]:
                yield members


def _plain(member):
    """Whether a module does only what `_Linears` does, as long as its adapter is active and not merged."""
    if len(member.active_adapters) != 1:
        return False
    name = member.active_adapters[0]
    if isinstance(member, ModulesToSaveWrapper):
        return name in member.modules_to_save and type(member.modules_to_save[name]) is nn.Linear
    return (
        name in member.lora_A
        and name not in member.lora_variant
        and not member.lora_bias.get(name)
        and isinstance(member.lora_dropout[name], nn.Identity)
        and type(member.base_layer) is nn.Linear
        and not member.base_layer.weight.requires_grad
    )


def _forward(group, index, original):
    def forward(x, *args, **kwargs):
        if args or kwargs or not group.ready(x):
            return original(x, *args, **kwargs)
        return group.output(index, x)

    return forward


def _whole_mlp(patches, mlp, groups):
    """Compute gate, up, their product and down as one, where they are linears of ours and the activation is SiLU."""
    first, second = (groups.get(id(getattr(mlp, name, None))) for name in ("gate_proj", "down_proj"))
    if first is None or second is None or len(first.members) != 2 or not _is_silu(getattr(mlp, "act_fn", None)):
        return
    original = mlp.forward

    def forward(x):
        if not (first.ready(x) and second.ready(x)):
            return original(x)
        with torch.autocast(x.device.type, enabled=False):
            return _GatedMLP.apply(first, second, x.to(first.dtype), *first.trained, *second.trained)

    if fused.same(mlp, forward, first.members[0].in_features):
        patches.set(mlp, "forward", forward)


def _is_silu(activation):
    return isinstance(activation, nn.SiLU | SiLUActivation)


class _Casts:
    """All groups of a model, and their trained weights cast for compute: anew once an optimizer step has changed them."""

    def __init__(self, base):
        found = [members for members in _readers(base) if all(map(_plain, members))]
        dtypes = {m.base_layer.weight.dtype for members in found for m in members if isinstance(m, LoraLinear)}
        self.groups = [_Group(members, *dtypes) for members in found] if len(dtypes) == 1 else []
        self.stale, self.seen = True, None
        copies = [copy for group in self.groups for copy in group.copies]
        self.sources = [source for source, _, _ in copies]
        self.targets = [target for _, target, _ in copies]
        self.scaled = [(index, scale) for index, (_, _, scale) in enumerate(copies) if scale != 1]

    def watch(self, base):
        """Handles of the hooks that look for changed weights before each forward pass."""
        decoder = base.get_decoder()
        return decoder.register_forward_pre_hook(self.refresh), register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_):
        self.stale = True  # fused optimizers change weights without counting their versions up

    @torch.no_grad()
    def refresh(self, *_):
        """Cast the trained weights if they may have changed."""
        seen = [(weight.data_ptr(), weight._version) for weight in self.sources]
        if not self.stale and seen == self.seen:
            return
        sources = [source.detach() for source in self.sources]
        if self.scaled:
            places, scales = zip(*self.scaled)
            for place, value in zip(places, torch._foreach_mul([sources[place] for place in places], list(scales))):
                sources[place] = value
        if sources:
            torch._foreach_copy_(self.targets, sources)
        self.stale, self.seen = False, seen


class _Group:
    """Linears that read one input: the first one called computes all outputs, the others take theirs.

    dtype: of the frozen weights and of the computation. rows: (W, b, B or None, slice of A's rows, scale) of each member;
    A is [R, in], those of all LoRA members below one another, times their scale. trained: the parameters in the order of
    gradients, A and B [out, r] of a LoRA member, W and b (or None) of one trained in full. copies: (weight, where its cast
    belongs, scale).
    """

    def __init__(self, members, dtype):
        self.members, self.dtype = members, dtype
        self.active = [(member, member._active_adapter) for member in members]
        self.rows, self.trained, self.copies = [], [], []
        loras = [member for member in members if isinstance(member, LoraLinear)]
        ranks = [member.r[member.active_adapters[0]] for member in loras]
        self.A = _like(loras[0].base_layer.weight, sum(ranks), loras[0].in_features) if loras else None
        start = 0
        for member in members:
            start = self._add_lora(member, start) if isinstance(member, LoraLinear) else self._add_full(member, start)
        self.x, self.waiting = None, {}

    def _add_lora(self, member, start):
        name, base = member.active_adapters[0], member.base_layer
        A, B, scale = member.lora_A[name].weight, member.lora_B[name].weight, member.scaling[name]
        own = slice(start, start + len(A))
        cast = _like(base.weight, *B.shape)
        self.rows.append((base.weight, base.bias, cast, own, scale))
        self.trained += [A, B]
        self.copies += [(A, self.A[own], scale), (B, cast, 1)]
        return own.stop

    def _add_full(self, member, start):
        linear = member.modules_to_save[member.active_adapters[0]]
        weight = torch.empty_like(linear.weight, dtype=self.dtype, requires_grad=False)
        bias = None if linear.bias is None else torch.empty_like(linear.bias, dtype=self.dtype, requires_grad=False)
        self.rows.append((weight, bias, None, None, None))
        self.trained += [linear.weight, linear.bias]
        self.copies += [(linear.weight, weight, 1)] + ([] if bias is None else [(linear.bias, bias, 1)])
        return start

    def ready(self, x):
        """Whether PEFT would do the plain thing for all members, in the dtype that the frozen weights have."""
        return _compute_dtype(x) == self.dtype and not any(
            member._disable_adapters or vars(member).get("merged_adapters") or member._active_adapter != active
            for member, active in self.active
        )

    def output(self, index, x):
        """Output of member `index`, [..., out]."""
        if self.x is not x or index not in self.waiting:
            with torch.autocast(x.device.type, enabled=False):
                self.x, self.waiting = x, dict(enumerate(_Linears.apply(self, x.to(self.dtype), *self.trained)))
        out = self.waiting.pop(index)
        if not self.waiting:
            self.x = None
        return out


def _like(weight, *shape):
    return torch.empty(shape, dtype=weight.dtype, device=weight.device)


def _compute_dtype(x):
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _Linears(torch.autograd.Function):
    """All outputs of linears that read x [..., in]; gradients of x and of the trained weights."""

    @staticmethod
    def forward(ctx, group, x, *trained):
        flat = x.reshape(-1, x.shape[-1])
        outputs, xA = _outputs(group, flat)
        ctx.save_for_backward(flat, xA)
        ctx.group, ctx.shape = group, x.shape
        return tuple(out.view(*x.shape[:-1], -1) for out in outputs)

    @staticmethod
    def backward(ctx, *gradients):
        flat, xA = ctx.saved_tensors
        douts = [dout.reshape(-1, dout.shape[-1]) for dout in gradients]
        dx, found = _gradients(ctx.group, flat, xA, douts, ctx.needs_input_grad[1])
        return None, None if dx is None else dx.view(ctx.shape), *found


class _GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)); the product is not kept but made again in the backward pass."""

    @staticmethod
    def forward(ctx, first, second, x, *trained):
        flat = x.reshape(-1, x.shape[-1])
        (gate, up), xA = _outputs(first, flat)
        hidden = _swiglu(gate, up)
        (out,), hA = _outputs(second, hidden)
        ctx.save_for_backward(flat, xA, gate, up, hA)
        ctx.groups, ctx.shape = (first, second), x.shape
        return out.view(x.shape[:-1] + out.shape[-1:])

    @staticmethod
    def backward(ctx, dout):
        flat, xA, gate, up, hA = ctx.saved_tensors
        first, second = ctx.groups
        dhidden, of_second = _gradients(second, _swiglu(gate, up), hA, [dout.reshape(-1, dout.shape[-1])], True)
        dx, of_first = _gradients(first, flat, xA, _swiglu_back(dhidden, gate, up), ctx.needs_input_grad[2])
        return None, None, None if dx is None else dx.view(ctx.shape), *of_first, *of_second


def _outputs(group, x_TD):
    """(outputs [T, out] of a group's members, x A [T, R] or None).

    A LoRA member: x W + b + scale (x A^T) B^T with A [r, in], B [out, r] (PEFT's layout); W and b are frozen. A member
    trained in full: x W + b.
    """
    xA = None if group.A is None else torch.mm(x_TD, group.A.t())
    outputs = []
    for weight, bias, B, own, _ in group.rows:
        out = F.linear(x_TD, weight, bias)
        if B is not None:
            out.addmm_(xA if len(group.rows) == 1 else xA[:, own], B.t())
        outputs.append(out)
    return outputs, xA


def _gradients(group, x_TD, xA, douts, needs_dx):
    """(dx or None, gradients in the order of `group.trained`) from those of the outputs."""
    dxA = None if xA is None else torch.empty_like(xA)
    dx, found = None, []
    for (weight, bias, B, own, _), dout in zip(group.rows, douts):
        if needs_dx:
            dx = torch.mm(dout, weight) if dx is None else dx.addmm_(dout, weight)
        if B is None:
            found += [_product(dout.t(), x_TD), None if bias is None else dout.sum(0, dtype=_wide(dout))]
            continue
        part, dpart = (xA, dxA) if len(group.rows) == 1 else (xA[:, own], dxA[:, own])
        torch.mm(dout, B, out=dpart)
        found += [None, _product(dout.t(), part)]
    if xA is not None:
        if needs_dx:
            dx.addmm_(dxA, group.A)
        dA = _product(dxA.t(), x_TD)
        for index, (*_, B, own, scale) in enumerate(group.rows):
            if B is not None:
                found[2 * index] = dA[own].mul_(scale)
    return dx, found


def _swiglu(gate, up):
    return kernels().swiglu_forward(gate, up) if gate.is_cuda else F.silu(gate) * up


def _swiglu_back(dout, gate, up):
    """Gradients of gate and up."""
    if gate.is_cuda:
        return kernels().swiglu_backward(dout, gate, up)
    return torch.ops.aten.silu_backward(dout * up, gate), dout * F.silu(gate)


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
