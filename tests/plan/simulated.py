"""Every allocation of a real training step, without memory or a GPU: tensors that have a shape and no data (FakeTensorMode).

The model is transformers', wrapped by PEFT and patched by TRL's fused LM head as in training, under autocast. Two things are
put in place of what only a GPU has: attention that keeps what flash attention keeps, and the kernels that fold a tile of
logits in place.
"""

import weakref
from contextlib import contextmanager
from unittest import mock

import torch
from peft import get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from trl.trainer.utils import add_fused_lm_head

from hybrid_lora.modeling import candidates, hybrid

QWEN_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
KERNELS = "trl.kernels.chunked_logprob"


class Live(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most there ever were since `mark`."""

    def __init__(self):
        super().__init__()
        self.sizes, self.bytes, self.most = {}, 0, 0

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.most = max(self.most, self.bytes)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.bytes -= self.sizes.pop(key, 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        batch, heads, length, size = q.shape
        out = q.new_empty(batch, length, heads, size)
        ctx.save_for_backward(q, k, v, out, q.new_empty(batch, heads, length, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, dout):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _attention(module, query, key, value, mask, **options):
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    return _Flash.apply(query, key, value), None


AttentionInterface.register("as_on_gpu", _attention)
AttentionMaskInterface.register("as_on_gpu", lambda *given, **options: None)


@contextmanager
def _in_place():
    """Tiles of logits are folded without temporaries, as by TRL's Triton kernels."""
    with (
        mock.patch(f"{KERNELS}._forward_tile", lambda *g, **o: None),
        mock.patch(f"{KERNELS}._backward_tile", lambda *g, **o: None),
    ):
        yield


def build(fft, layers, frozen=torch.float32, shape=QWEN_1_5B):
    """A model on the meta device: fft None for full fine-tuning, else a function of the candidates that names those in full."""
    config = Qwen2Config(**shape, num_hidden_layers=layers, attn_implementation="as_on_gpu", use_cache=False)
    with torch.device("meta"):
        torch.set_default_dtype(frozen)
        try:
            model = Qwen2ForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
        if fft is None:
            return model
        found = candidates.find(model)
        chosen = set(fft(found))
        names = [c.module for c in found if c.module not in chosen]
        model = get_peft_model(model, hybrid.lora_config({"rank": 16, "alpha": 32, "names": names}, sorted(chosen)))
        hybrid.to_fp32_trainable(model)
    return model


def peak(model, batch, length, autocast=True, checkpointing=True, accumulated=False, kernels=True, prepare=None):
    """The most bytes at any time of a forward and backward pass, AdamW's states included.

    prepare: called with the model once it has its (empty) weights, e.g. to patch its layers.
    """
    with FakeTensorMode():
        _give_storage(model)
        if prepare:
            prepare(model)
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        add_fused_lm_head(base, outputs=("log_probs", "entropy"))
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            if base is not model:
                base.enable_input_require_grads()
        base.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        states = [torch.zeros_like(p) for p in trained for _ in range(2)]
        if accumulated:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        ids = torch.zeros(batch, length, dtype=torch.long)
        live = Live()
        folding = _in_place() if kernels else mock.MagicMock()
        with live, folding:
            for tensor in [*model.parameters(), *model.buffers(), *states, *(p.grad for p in trained if p.grad is not None)]:
                live.add(tensor)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = base(input_ids=ids, labels=ids, fused_lm_head=True).loss
            loss.backward()
        return live.most


def _give_storage(model):
    """Fake tensors of the processor in place of those on the meta device; shared ones stay shared."""
    given = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in given:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    given[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = given[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
