"""A run's training as the memory formula sees it: tokens of a step, the engine beside it, the rollouts' cache.

With RL a micro-batch holds `device_batch_size` completions at their full length after a prompt of assumed length; nobody knows
better before the data are there. Sizes are of one GPU; several GPUs share the batch and hold the model each.
"""

from dataclasses import dataclass

from hybrid_lora.plan import memory
from hybrid_lora.plan.gpus import OUTSIDE

BYTES = {"bfloat16": 2, "float32": 4}
ENGINE_OWN = 1.5 * 2**30  # of a vLLM engine beside weights and cache: its largest forward pass and CUDA graphs
ASLEEP = 0.5 * 2**30  # what an engine keeps while it sleeps


@dataclass(frozen=True)
class Tokens:
    """Of one optimizer step over all GPUs: sequences, tokens at most; of one pass on one GPU: rows, tokens, targets, passes."""

    sequences: int
    tokens: int
    rows: int
    pass_tokens: int
    pass_targets: int
    passes: int


def tokens(objective, prompt, gpus):
    """The Tokens of an entry of config `objectives`; prompt: assumed length of a prompt."""
    rows = objective["device_batch_size"]
    if objective["algorithm"] == "sft":
        sequences, length = objective["batch_size"], objective["max_length"]
        targets = length
    else:
        sequences = objective["prompts_per_generation"] * objective["group_size"] // objective["updates_per_generation"]
        targets = objective["max_completion_tokens"]
        length = prompt + targets
    passes = max(1, sequences // (rows * max(gpus, 1)))
    return Tokens(sequences, sequences * length, rows, rows * length, rows * targets, passes)


def step(shape, trained, objective, prompt, gpus):
    """The memory.Step of one pass."""
    one, everything, frozen = tokens(objective, prompt, gpus), trained.fft is None, _frozen(trained, objective)
    second = everything and objective["algorithm"] != "sft" and objective["kl"] > 0
    compute = 2 if objective["precision"] == "bf16" else 4
    return memory.Step(
        tokens=one.pass_tokens,
        targets=one.pass_targets,
        compute=compute,
        frozen=frozen,
        checkpointing=objective["gradient_checkpointing"],
        accumulated=one.passes > 1,
        fast=fast(trained, objective),
        reference=4 * shape.total if second else 0,
        processes=max(gpus, 1),
    )


def fast(trained, objective):
    """Whether our fast layers compute all linears; with LoRA's dropout, or on a base of another dtype, PEFT's do."""
    compute = 2 if objective["precision"] == "bf16" else 4
    plain = trained.fft is None or (_frozen(trained, objective) == compute and not trained.dropout)
    return bool(objective.get("fast_layers")) and plain


def _frozen(trained, objective):
    """Bytes of a weight as the model is loaded."""
    return 4 if trained.fft is None else BYTES[objective.get("dtype", "float32")]


def cache_bytes(shape, compute=2):
    """Bytes of keys and values of one token."""
    return 2 * shape.layers * shape.width("k") * compute


def rollouts(shape, trained, objective, prompt, gpus, gpu_memory):
    """{who, bytes (held or needed on a GPU), asleep (bytes during updates), cache_tokens, sequences} or None for SFT.

    With vLLM also its weights' bytes and `longest`, the tokens of the longest sequence that its cache must hold.
    """
    if objective["algorithm"] == "sft":
        return None
    length = prompt + objective["max_completion_tokens"]
    sequences = objective["prompts_per_generation"] * objective["group_size"] // max(gpus, 1)
    if objective["rollouts"] != "vllm":
        # Its cache has the dtype of the rotated keys: float32 beside float32 weights, under autocast as well, but where our
        # rotation keeps that of the product.
        bf16 = fast(trained, objective) and objective["precision"] == "bf16"
        needed = sequences * length * cache_bytes(shape, 2 if bf16 else _frozen(trained, objective))
        return {"who": "transformers", "bytes": needed, "asleep": 0, "cache_tokens": sequences * length, "sequences": sequences}
    engine = objective.get("vllm") or {}
    if engine.get("mode", "colocate") == "server":
        return {"who": "a vLLM server", "bytes": 0, "asleep": 0, "cache_tokens": 0, "sequences": sequences}
    share = int(engine.get("gpu_memory_utilization", 0.3) * gpu_memory)
    weights = 2 * shape.total / engine.get("tensor_parallel", 1)
    room = share - weights - ENGINE_OWN
    # vLLM starts only where its cache holds one sequence of the longest kind it may be asked for.
    longest = engine.get("max_model_len") or min(length, shape.context)
    return {
        "who": "vLLM",
        "longest": longest,
        "bytes": share,
        "weights": int(weights),
        "asleep": int(ASLEEP) if engine.get("sleep") else share,
        "cache_tokens": int(room // cache_bytes(shape)),
        "sequences": int(room // (cache_bytes(shape) * length)),
    }


def peak(shape, trained, objective, prompt, gpus, gpu_memory):
    """(moment, {part: bytes}, rollouts or None): the moment of training at which a GPU holds most."""
    one = step(shape, trained, objective, prompt, gpus)
    moment, parts = memory.peak(shape, trained, one)
    engine = rollouts(shape, trained, objective, prompt, gpus, gpu_memory)
    if engine is None:
        return moment, parts, None
    update = {**parts, "vLLM": engine["asleep"]}
    generating = memory.moments(shape, trained, one)["optimizer step"] | {"gradients": 0, "optimizer's temporaries": 0}
    generating["vLLM" if engine["who"] == "vLLM" else "rollouts' keys and values"] = engine["bytes"]
    if sum(generating.values()) > sum(update.values()):
        return "rollouts", generating, engine
    return moment, update, engine


def remedies(shape, trained, objective, prompt, gpus, gpu_memory):
    """[(what to set, bytes)] of single changes, and all of them together, that bring the peak below `gpu_memory`."""
    changes = []
    if not objective["gradient_checkpointing"]:
        changes.append(("gradient_checkpointing: true", {"gradient_checkpointing": True}))
    if trained.fft is not None and objective.get("dtype") == "float32":
        changes.append(("dtype: bfloat16", {"dtype": "bfloat16"}))
    if objective["device_batch_size"] > 1:
        changes.append(("device_batch_size: 1", {"device_batch_size": 1}))
    if objective["algorithm"] != "sft":
        engine = objective.get("vllm") or {}
        if objective["rollouts"] != "vllm":
            changes.append(("rollouts: vllm", {"rollouts": "vllm"}))
        elif engine.get("mode", "colocate") == "colocate":
            changes += _engine_changes(engine, prompt + objective["max_completion_tokens"])
        if trained.fft is None and objective["kl"] > 0:
            changes.append(("kl: 0 (no second model)", {"kl": 0.0}))
    together = {}
    for _, change in changes:
        for key, value in change.items():
            together[key] = {**together.get(key, {}), **value} if isinstance(value, dict) else value
    if len(changes) > 1:
        changes.append((" and ".join(name for name, _ in changes), together))
    found = []
    for name, change in changes:
        changed = {**objective, **change}
        if "vllm" in change:
            changed["vllm"] = {**(objective.get("vllm") or {}), **change["vllm"]}
        _, parts, engine = peak(shape, trained, changed, prompt, gpus, gpu_memory)
        if sum(parts.values()) + OUTSIDE <= gpu_memory and fits(engine):
            found.append((name, sum(parts.values())))
    return found


def _engine_changes(engine, length):
    found = []
    if not engine.get("sleep"):
        found.append(("vllm.sleep: true", {"vllm": {"sleep": True}}))
    if (engine.get("max_model_len") or 0) > length:
        found.append((f"vllm.max_model_len: {length}", {"vllm": {"max_model_len": length}}))
    if engine.get("gpu_memory_utilization", 0.3) < 0.4:
        found.append(("vllm.gpu_memory_utilization: 0.4", {"vllm": {"gpu_memory_utilization": 0.4}}))
    return found


def fits(engine):
    """Whether an engine's cache holds the longest sequence that it must be ready for."""
    return engine is None or engine["who"] != "vLLM" or engine["cache_tokens"] >= engine["longest"]
