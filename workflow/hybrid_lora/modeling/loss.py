"""Next-token loss (nats per target token), the validation and warm-up loss of the paper.

Logits are made for a few hundred target tokens at a time and never kept: neither [tokens, vocabulary] logits nor their
float32 copy exist. Where the LM head is frozen, the gradient of the hidden states is computed beside the loss, so
that the head is not multiplied a second time in the backward pass.
"""

import functools

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import candidates
from hybrid_lora.modeling.sharding import gathered

ELEMENTS = {"cuda": 2**28, "cpu": 2**26}  # of logits at a time: 0.5 GiB in bfloat16, 0.25 GiB in float32
# Keys of configurations for a factor on the LM head's output, and whether it divides (Granite) or multiplies (Cohere, Falcon-H1).
SCALES = {"logit_scale": 1, "logits_scaling": -1, "lm_head_multiplier": 1}
TOLERANCE = 0.02  # of the largest logit: what bfloat16 may differ by when the same is computed in another order


def next_token_loss(model, batch):
    """(mean negative log-likelihood over target tokens as a scalar tensor, number of target tokens as int).

    Only positions with a target go through the LM head. batch: of batches.collate: input_ids and labels [B, L], padded on
    the right, targets. A causal decoder needs no attention mask then: what has a target never sees the padding after it.
    """
    (value,), tokens = next_token_losses(model, batch, 1)
    return value, tokens


def next_token_losses(model, batch, parts):
    """([mean loss of each of `parts` equal parts of the batch], target tokens of a part), as in `next_token_loss`.

    The parts, in the order of rows, must have equally many target tokens.
    """
    at_T = batch["targets"]
    hidden_BLD = candidates.decoder(model)(input_ids=batch["input_ids"], use_cache=False)[0]
    hidden_TD, targets_T = _Rows.apply(hidden_BLD.flatten(0, 1), at_T), batch["labels"].flatten()[at_T + 1]
    head, after = model.get_output_embeddings(), after_head(model.config)
    pairs = zip(hidden_TD.chunk(parts), targets_T.chunk(parts), strict=True)
    with gathered(head):
        return [mean_nll(hidden, head, targets, *after) for hidden, targets in pairs], len(targets_T) // parts


def after_head(config):
    """(cap, scale) that a model's configuration puts on the LM head's output, scale first; None where there is none."""
    config = config.get_text_config()
    scale = 1.0
    for key, sign in SCALES.items():
        scale *= (getattr(config, key, None) or 1.0) ** sign
    return getattr(config, "final_logit_softcapping", None), None if scale == 1 else scale


@torch.no_grad()
def check(model):
    """UserError unless the logits behind our loss are the model's own: a decoder may do something else after its LM head."""
    head, device = model.get_output_embeddings(), next(model.parameters()).device
    ids_BL = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    own_LV = model(input_ids=ids_BL, use_cache=False).logits[0].float()
    hidden_LD = candidates.decoder(model)(input_ids=ids_BL, use_cache=False)[0][0]
    if head is not None and hidden_LD.shape[-1] == head.weight.shape[1]:
        ours_LV, _ = _capped(F.linear(hidden_LD, head.weight, head.bias), *after_head(model.config))
        if (ours_LV - own_LV).abs().max() <= TOLERANCE * own_LV.abs().max():
            return
    raise UserError(f"{type(model).__name__}: its logits are not those of its LM head and cap or scale; it is not supported")


class _Rows(torch.autograd.Function):
    """x[rows] of different rows; the backward pass writes each row once, so that no order of summation is at stake.

    torch's own, where deterministic algorithms are asked for, sorts the rows and makes the CPU wait for a GPU.
    """

    @staticmethod
    def forward(ctx, x_ND, rows_T):
        ctx.save_for_backward(rows_T)
        ctx.count = len(x_ND)
        return x_ND.index_select(0, rows_T)

    @staticmethod
    def backward(ctx, dout_TD):
        (rows_T,) = ctx.saved_tensors
        dx_ND = dout_TD.new_zeros(ctx.count, dout_TD.shape[1])
        asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        torch.use_deterministic_algorithms(False)
        dx_ND.index_copy_(0, rows_T, dout_TD)
        torch.use_deterministic_algorithms(asked[0], warn_only=asked[1])
        return dx_ND, None


def mean_nll(hidden_TD, head, targets_T, softcap=None, scale=None):
    """Mean negative log-likelihood of targets [T] under softmax(head(hidden [T, D])); float32 or wider.

    head: the linear LM head; scale, softcap: a factor on its output and then Gemma's cap, or None (of `after_head`).
    """
    size = max(128, ELEMENTS[hidden_TD.device.type] // head.weight.shape[0] // 128 * 128)
    if not torch.is_grad_enabled() or not (hidden_TD.requires_grad or head.weight.requires_grad):
        parts = [_nll(h, head.weight, head.bias, t, softcap, scale) for h, t in _parts(hidden_TD, targets_T, size)]
        return torch.stack(parts).sum() / len(targets_T)
    if head.weight.requires_grad or torch.is_autocast_enabled(hidden_TD.device.type):
        parts = [
            checkpoint(_nll, h, head.weight, head.bias, t, softcap, scale, use_reentrant=False)
            for h, t in _parts(hidden_TD, targets_T, size)
        ]
        return torch.stack(parts).sum() / len(targets_T)
    return _FrozenHead.apply(hidden_TD, head.weight, head.bias, targets_T, softcap, scale, size)


def _parts(hidden_TD, targets_T, size):
    return zip(hidden_TD.split(size), targets_T.split(size))


def _nll(hidden, weight, bias, targets, softcap, scale):
    return on_gpu(_nll_of_logits, hidden)(F.linear(hidden, weight, bias), targets, softcap, scale)


class _FrozenHead(torch.autograd.Function):
    """Mean NLL whose forward also computes d loss / d hidden; the head itself gets no gradient."""

    @staticmethod
    def forward(ctx, hidden_TD, weight, bias, targets_T, softcap, scale, size):
        total, gradient_TD = 0.0, torch.empty_like(hidden_TD)
        step = on_gpu(_nll_and_gradient, hidden_TD)
        for part, hidden, targets in zip(gradient_TD.split(size), *zip(*_parts(hidden_TD, targets_T, size))):
            nll, dlogits = step(F.linear(hidden, weight, bias), targets, softcap, scale)
            total = total + nll
            torch.mm(dlogits, weight, out=part)
        ctx.save_for_backward(gradient_TD)
        ctx.count = len(targets_T)
        return total / len(targets_T)

    @staticmethod
    def backward(ctx, dloss):
        (gradient_TD,) = ctx.saved_tensors
        return gradient_TD * (dloss / ctx.count).to(gradient_TD.dtype), None, None, None, None, None, None


def _capped(logits, softcap, scale):
    """(logits in float32 or wider after scale and cap, derivative of both or None where it is 1)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scale:
        logits = logits * scale
    if not softcap:
        return logits, scale
    tanh = (logits / softcap).tanh()
    return softcap * tanh, (1 - tanh**2) * (scale or 1.0)


def _nll_of_logits(logits_TV, targets_T, softcap, scale):
    """Sum of negative log-likelihoods."""
    logits_TV, _ = _capped(logits_TV, softcap, scale)
    return (torch.logsumexp(logits_TV, -1) - logits_TV.gather(-1, targets_T[:, None])[:, 0]).sum()


def _nll_and_gradient(logits_TV, targets_T, softcap, scale):
    """(sum of negative log-likelihoods, its gradient in the logits in their dtype)."""
    capped_TV, slope_TV = _capped(logits_TV, softcap, scale)
    lse_T = torch.logsumexp(capped_TV, -1)
    nll = (lse_T - capped_TV.gather(-1, targets_T[:, None])[:, 0]).sum()
    gradient_TV = torch.exp(capped_TV - lse_T[:, None])
    gradient_TV = gradient_TV - (torch.arange(logits_TV.shape[1], device=logits_TV.device) == targets_T[:, None]).to(lse_T.dtype)
    if slope_TV is not None:  # a tensor, or the scale alone
        gradient_TV = gradient_TV * slope_TV
    return nll, gradient_TV.to(logits_TV.dtype)


@functools.cache
def _compiled(function):
    return torch.compile(function, dynamic=True)


def on_gpu(function, tensor):
    """`function`, compiled into fused kernels where `tensor` is on a GPU: elementwise chains there are bound by memory."""
    return _compiled(function) if tensor.is_cuda else function
