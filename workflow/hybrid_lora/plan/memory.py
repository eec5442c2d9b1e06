"""GPU memory of a training step by parts, from what is stored: no constant here is fitted to a measurement.

A step's memory is highest at one of six moments: at the end of the forward pass, when the loss is differentiated, when the
last decoder layer is, when the first one is (all gradients are there), when the embedding is, or in the optimizer. The
largest counts. What a layer keeps for its backward pass follows from how transformers, PEFT and our fast layers compute it:

- every linear keeps its input in the compute dtype; where autocast or PEFT casts it, each linear has a copy of its own;
- attention keeps q, k, v and its output, a gated MLP gate, silu(gate) and up, a norm its input in float32, and the normalized
  input where its weight is trained;
- autocast casts float32 weights for each product: casts of frozen ones are kept until the layer's backward pass, those of
  trained ones until the forward pass ends, or with the activations.

With checkpointing a layer keeps its input alone, and one layer's activations exist at a time. Logits are made in tiles of
4,096 tokens by 32,768 words (TRL's fused LM head), folded in place by its Triton kernels. tests/plan checks the formula
against every allocation of real training steps and against measured peaks; tests/benchmarks/plan_memory.py measures more.
"""

from dataclasses import dataclass

TILE_TOKENS, TILE_WORDS = 4096, 32768  # of TRL's fused LM head
FOLDED = 7 * 4 + 1  # bytes an element of a tile: float32 copies and a mask, where torch folds it for want of Triton
GRADIENT = STATE = 4  # bytes: trained weights, their gradients and each of AdamW's two states are float32


@dataclass(frozen=True)
class Step:
    """One forward and backward pass. tokens: of the batch, prompt included; targets: those with a loss.

    compute: bytes of the compute dtype (2 under bf16 autocast, 4); frozen: bytes of a frozen weight; accumulated: whether
    gradients of earlier passes are there; fast: our fast layers; fused: AdamW in one kernel; reference: bytes of a
    second model for the KL term; processes: over which gradients are averaged (DDP keeps them in buckets as well); kernels:
    whether Triton folds the tiles of logits (on a GPU it does).
    """

    tokens: int
    targets: int
    compute: int = 2
    frozen: int = 2
    checkpointing: bool = True
    accumulated: bool = False
    fast: bool = False
    fused: bool = True
    reference: int = 0
    processes: int = 1
    kernels: bool = True


def peak(shape, trained, step):
    """(name of the moment, {part: bytes}) with the highest sum."""
    found = moments(shape, trained, step)
    return max(found.items(), key=lambda item: sum(item[1].values()))


def moments(shape, trained, step):
    """{moment: {part: bytes}}."""
    static, gradients = _static(shape, trained, step), GRADIENT * trained.total
    earlier = {"gradients": gradients if step.accumulated else 0}
    kept, casts = stored(shape, trained, step)
    loss, head_gradient = _head(shape, trained, step)
    one = layer(shape, trained, step) if step.checkpointing else 0
    head = {"gradients": max(earlier["gradients"], head_gradient)}
    # Tied: that of the LM head, that of the embedding and their sum, of which `gradients` counts one.
    embedding = GRADIENT * shape.embedding * (2 if shape.tied else 0) if trained.fft is None else 0
    cached = {"weights cast for compute": casts}
    return {
        "end of the forward pass": {**static, **earlier, **cached, "activations": kept, "LM head": _tile(shape, step)},
        "gradient of the loss": {**static, **earlier, **_until_backward(step, casts), "activations": kept, "LM head": loss},
        "last layer's backward pass": {
            **static,
            **head,
            **_until_backward(step, casts),
            "activations": kept + one,
            "gradients of activations": _workspace(shape, trained, step),
        },
        "first layer's backward pass": {
            **static,
            "gradients": gradients,
            "activations": one,
            "gradients of activations": _workspace(shape, trained, step),
        },
        "gradient of the embedding": {**static, "gradients": gradients + embedding},
        "optimizer step": {
            **static,
            "gradients": gradients,
            "optimizer's temporaries": 0 if step.fused else STATE * trained.total,
        },
    }


def _static(shape, trained, step):
    """What is there all the time."""
    everything = trained.fft is None
    parts = {
        "frozen weights": 0 if everything else step.frozen * shape.total,
        "trained weights": 4 * trained.total,
        "optimizer": 2 * STATE * trained.total,
        "reference model": step.reference,
    }
    if step.fast and not everything:
        parts["casts of trained weights"] = step.compute * trained.total
    if step.processes > 1:
        parts["buckets for averaging"] = GRADIENT * trained.total
    return parts


def _until_backward(step, casts):
    """Casts that are still there in the backward pass: kept as activations are, unless a layer is recomputed."""
    return {"weights cast for compute": 0 if step.checkpointing else casts}


def stored(shape, trained, step):
    """(bytes of activations kept until the backward pass, bytes of cast weights at the end of the forward pass)."""
    wide = residual(trained, step)
    ends = step.tokens * shape.hidden * 4 + 2 * step.targets * shape.hidden * wide  # the last norm, the LM head's rows
    casts = _casts(shape, trained, step)
    if step.checkpointing:
        # Frozen ones are cast anew wherever they are used; autocast remembers those that are trained.
        return shape.layers * step.tokens * shape.hidden * wide + ends, casts["trained"]
    return shape.layers * _activations(shape, trained, step) + ends, casts["trained"] + casts["frozen"]


def residual(trained, step):
    """Bytes an element of the residual stream: of the embeddings' dtype."""
    return 4 if trained.fft is None else step.frozen


def layer(shape, trained, step):
    """Bytes that one layer keeps for its backward pass, its share of cast weights included."""
    casts = _casts(shape, trained, step)
    return _activations(shape, trained, step) + (casts["trained"] + casts["frozen"]) // shape.layers


def _casts(shape, trained, step):
    """Bytes of all weights cast to the compute dtype."""
    if step.compute == 4 or (step.fast and trained.fft is not None):
        return {"trained": 0, "frozen": 0}
    linears = sum(c.params for c in shape.candidates)
    if trained.fft is None:
        return {"trained": step.compute * linears, "frozen": 0}
    frozen = step.compute * (linears - trained.full) if step.frozen != step.compute else 0
    return {"trained": step.compute * trained.total, "frozen": frozen}


def _activations(shape, trained, step):
    """Bytes of the activations that one layer keeps, averaged over layers."""
    parts, everything = shape.layer(), trained.fft is None
    heads, keys, wide = parts["q"].out_features, parts["k"].out_features, parts["gate"].out_features
    attention = heads + 2 * keys + heads
    norms = 2 * shape.hidden * 4 if not step.fast else 2 * shape.hidden * residual(trained, step)
    if everything and not step.fast:
        norms += 2 * shape.hidden * 4
    if step.fast and not everything:
        # One input for q, k, v and one for gate, up; q, k, v before their rotation are one tensor, which v keeps alive.
        inputs, gated = 2 * shape.hidden + heads + keys, 2 * wide
    else:
        inputs = sum(_own_input(shape, trained, step, c) for c in shape.candidates) / shape.layers
        gated = (2 if step.fast else 3) * wide
    return int(step.tokens * (step.compute * (attention + inputs + gated) + norms))


def _own_input(shape, trained, step, candidate):
    """Elements a token of the input that a linear keeps for itself, beyond what another one keeps anyway."""
    lora = trained.fft is not None and candidate.module not in trained.fft
    cast = step.compute != 4 and (lora or residual(trained, step) != step.compute)  # PEFT casts to float32, autocast back
    if candidate.type == "o":
        return candidate.in_features if cast and lora else 0  # else attention's output
    if candidate.type in ("q", "gate", "down") or cast:
        return candidate.in_features
    return 0  # k, v and up share the input of q and gate


def _workspace(shape, trained, step):
    """Bytes of the gradients in one layer's backward pass beyond what it frees on the way, highest at the MLP's down.

    That of down's input (in float32 where PEFT casts it so) and three as wide as the residual stream. Our fast layers' MLP is one
    operation: it holds the gradients of gate and up too before it frees what it kept.
    """
    width = shape.width("gate")
    if trained.fft is None or not step.fast:
        gradients = (step.compute if trained.fft is None else 4) * width
    else:
        gradients = 3 * step.compute * width
    return step.tokens * (gradients + 3 * 4 * shape.hidden)


def _tile(shape, step):
    """Bytes of one tile of logits and of the LM head's rows for it in the compute dtype."""
    words = min(TILE_WORDS, shape.vocabulary)
    return step.compute * (min(step.targets, TILE_TOKENS) * words + words * shape.hidden)


def _head(shape, trained, step):
    """(bytes to differentiate the loss, bytes of the LM head's gradient)."""
    rows = step.targets * shape.hidden * (4 + residual(trained, step))
    gradient = GRADIENT * shape.embedding if trained.fft is None else 0
    words = min(TILE_WORDS, shape.vocabulary)
    copies = 0 if step.kernels else FOLDED * min(step.targets, TILE_TOKENS) * words
    return _tile(shape, step) + rows + copies + gradient, gradient
