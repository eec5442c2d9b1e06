"""The hybrid's linears computed faster than PEFT computes them: the same function and gradients, fewer passes over memory.

PEFT adds a LoRA branch with half a dozen small kernels and elementwise passes a module, and autocast casts the weights
trained in full again wherever they are used. Here all linears that read one input (q, k, v; gate and up; o; down) are one
autograd function over one matrix that holds all their weights, so that a group costs three products forward and five
backward however many modules and branches it has, and no more is kept for the backward pass than x and x A. A gated MLP
is one function with its activation inside. Trainable weights stay float32 and are cast for compute; their gradients are float32.

PEFT's modules stay where they are and own every weight: saving, merging, `disable_adapter()` and vLLM's weight sync see
what they always saw. The reference policy, adapter disabled and without gradients, is computed by the same products over the
frozen weights: another order of summation would give it other roundings, and a KL above 0 before the first update. A call
that is neither (adapter merged, LoRA dropout, a base of another dtype than the computation's) goes to PEFT's own forward.
"""

import functools

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.activations import SiLUActivation

from hybrid_lora.modeling import candidates, fused, patching, products

TRAINED, REFERENCE = "trained", "reference"  # policies: the adapter at work, or off and without gradients
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


def apply_to(trainer):
    """`apply` to a Hugging Face Trainer's model where that is usable, and to the reference beside one trained in full.

    Computed by other operations, the reference would be rounded otherwise, and the KL not be 0 before the first update.
    """
    if usable(trainer):
        apply(trainer.model)
        if getattr(trainer, "ref_model", None) is not None:
            apply(trainer.ref_model)


def usable(trainer):
    """Whether a Hugging Face Trainer's model is whole and on a GPU; sharded weights are not where they are expected."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return next(trainer.model.parameters()).is_cuda and not sharded


def remove(model):
    """PEFT's and transformers' own computation again."""
    if patches := vars(model).pop("_fast_layers", None):
        patches.close()


def _readers(base):
    """Lists of wrapped linears of one layer that read the same input; none of q, k, v that the model clamps in place (OLMo's
    clip_qkv), as those of a group are parts of one tensor."""
    found, clamped = {}, getattr(base.config, "clip_qkv", None) is not None
    for name, module in base.named_modules():
        part = candidates.SUFFIXES.get(name.rsplit(".", 1)[-1])
        if part and isinstance(module, LoraLinear | ModulesToSaveWrapper):
            found.setdefault(name.rsplit(".", 1)[0], {})[part] = module
    for parts in found.values():
        for together in READERS:
            members = [parts[part] for part in together if part in parts]
            if members and not (clamped and "q" in together):
                yield members


def _plain(member):
    """Whether a module does only what `products` does, as long as its adapter is active and not merged."""
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
        policy = None if args or kwargs else group.policy(x)
        return original(x, *args, **kwargs) if policy is None else group.output(index, x, policy)

    return forward


def _whole_mlp(patches, mlp, groups):
    """Compute gate, up, their product and down as one, where they are linears of ours and the activation is SiLU."""
    first, second = (groups.get(id(getattr(mlp, name, None))) for name in ("gate_proj", "down_proj"))
    if first is None or second is None or len(first.members) != 2 or not _is_silu(getattr(mlp, "act_fn", None)):
        return
    original = mlp.forward

    def forward(x):
        policy = first.policy(x)
        if policy is None or second.policy(x) != policy:
            return original(x)
        with torch.autocast(x.device.type, enabled=False):
            return products.gated_mlp(first, second, x.to(first.dtype), policy == REFERENCE)

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
        # Dense targets first, as PyTorch copies a list in one go only where all are.
        self.order = sorted(range(len(copies)), key=lambda i: not copies[i][1].is_contiguous())
        self.dense = sum(target.is_contiguous() for _, target, _ in copies)
        self.targets = [copies[i][1] for i in self.order]
        self.scaled = [(place, copies[i][2]) for place, i in enumerate(self.order) if copies[i][2] != 1]

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
        sources = [self.sources[i].detach() for i in self.order]
        if self.scaled:
            places, scales = zip(*self.scaled)
            for place, value in zip(places, torch._foreach_mul([sources[place] for place in places], list(scales))):
                sources[place] = value
        for some in (slice(self.dense), slice(self.dense, None)):
            if sources[some]:
                torch._foreach_copy_(self.targets[some], sources[some])
        self.stale, self.seen = False, seen


class _Group:
    """Linears that read one input, as one: the first one called computes all outputs, the others take theirs.

    dtype: of the frozen weights and of the computation. W [O, in] and bias [O] hold the members' rows below one another:
    frozen weights, which become views of it, and casts of those trained in full. A [R, in] holds the LoRA members' A's
    below one another, B [O, R] their B's, zero where a row and a column are of different members. scaled_A, scaled_B: times
    alpha / rank. trained: parameters in the order of gradients, A and B of a LoRA member, W and b (or None) of one in full.
    copies: (weight, where its cast belongs, factor).
    """

    def __init__(self, members, dtype):
        self.members, self.dtype = members, dtype
        self.active = [(member, member._active_adapter) for member in members]
        self.rows, self.columns, self.trained, self.copies = [], [], [], []
        linears = [_linear(member) for member in members]
        for member, linear in zip(members, linears):
            row, column = self._ends()
            rank = member.r[member.active_adapters[0]] if isinstance(member, LoraLinear) else 0
            self.rows.append(slice(row, row + linear.out_features))
            self.columns.append(slice(column, column + rank))
        new = functools.partial(torch.zeros, dtype=dtype, device=linears[0].weight.device)
        (height, rank), width = self._ends(), linears[0].in_features
        self.W = new(height, width)
        self.bias = new(height) if any(linear.bias is not None for linear in linears) else None
        self.A, self.scaled_A = (new(rank, width), new(rank, width)) if rank else (None, None)
        self.B, self.scaled_B = (new(height, rank), new(height, rank)) if rank else (None, None)
        for member, linear, row, column in zip(members, linears, self.rows, self.columns):
            (self._add_lora if isinstance(member, LoraLinear) else self._add_full)(member, linear, row, column)
        self.x, self.of, self.waiting = None, None, {}

    def _ends(self):
        return (self.rows[-1].stop, self.columns[-1].stop) if self.rows else (0, 0)

    @torch.no_grad()
    def _add_lora(self, member, linear, row, column):
        self.W[row] = linear.weight
        linear.weight.data = self.W[row]
        if linear.bias is not None:
            self.bias[row] = linear.bias
        name = member.active_adapters[0]
        A, B, scale = member.lora_A[name].weight, member.lora_B[name].weight, member.scaling[name]
        self.trained += [A, B]
        self.copies += [(A, self.A[column], 1), (A, self.scaled_A[column], scale)]
        self.copies += [(B, self.B[row, column], 1), (B, self.scaled_B[row, column], scale)]

    def _add_full(self, member, linear, row, column):
        self.trained += [linear.weight, linear.bias]
        self.copies += [(linear.weight, self.W[row], 1)]
        self.copies += [] if linear.bias is None else [(linear.bias, self.bias[row], 1)]

    def policy(self, x):
        """TRAINED or REFERENCE where PEFT would compute no more than that for all members, in the frozen weights' dtype."""
        if _compute_dtype(x) != self.dtype or any(vars(member).get("merged_adapters") for member, _ in self.active):
            return None
        disabled = [member._disable_adapters for member, _ in self.active]
        if not any(disabled):
            return TRAINED if all(member._active_adapter == active for member, active in self.active) else None
        return REFERENCE if all(disabled) and not torch.is_grad_enabled() else None

    def frozen(self):
        """(W, bias) with the originals of members trained in full in place of their casts."""
        found = [
            (row, member.original_module) for row, member in zip(self.rows, self.members) if not isinstance(member, LoraLinear)
        ]
        if not found:
            return self.W, self.bias
        W, bias = self.W.clone(), None if self.bias is None else self.bias.clone()
        for row, linear in found:
            W[row] = linear.weight
            if linear.bias is not None:
                bias[row] = linear.bias
        return W, bias

    def output(self, index, x, policy):
        """Output of member `index`, [..., out]."""
        if self.x is not x or self.of != policy or index not in self.waiting:
            with torch.autocast(x.device.type, enabled=False):
                outputs = products.linears(self, x.to(self.dtype), policy == REFERENCE)
            self.x, self.of, self.waiting = x, policy, dict(enumerate(outputs))
        out = self.waiting.pop(index)
        if not self.waiting:
            self.x = None
        return out


def _linear(member):
    """The linear whose weights count: the frozen one below a LoRA branch, or the one trained in full."""
    return member.base_layer if isinstance(member, LoraLinear) else member.modules_to_save[member.active_adapters[0]]


def _compute_dtype(x):
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
