"""The plan of a run as text: memory by parts, tokens, counts, disk, GPU-hours, and whether it fits."""

from hybrid_lora.config import compute
from hybrid_lora.plan import disk, hours, training
from hybrid_lora.plan.gpus import GIB, OUTSIDE


def plan(config, run, shape, trained, request):
    """All lines. request: {gpu (name), hardware (GPU), memory (bytes of one), prompt (tokens), fill (share of lengths)}."""
    values = config.values
    objective = values["objectives"][run.objective] if run.objective else None
    yield f"{run.run}: {run.model}, {run.method}, {run.objective or 'untrained'}"
    yield f"shape: {shape.total:,} parameters, {shape.layers} layers, from {shape.known_from}; no weights are loaded"
    if objective:
        yield ""
        yield from _counts(shape, trained)
        yield ""
        yield from _tokens(objective, compute.total(values), request)
        yield ""
        yield from _memory(values, objective, shape, trained, request)
    yield ""
    yield "disk, at most"
    for what, size in disk.files(values, run, shape, trained, objective, 1.0):
        yield f"  {what:55} {_size(size):>10}"
    yield ""
    yield from _hours(config, run, shape, trained, objective, request)


def _counts(shape, trained):
    yield "trained parameters"
    rows = [("in full", trained.full), ("LoRA", trained.lora), ("together", trained.total)]
    for what, count in rows:
        yield f"  {what:55} {count:>15,}  {100 * count / shape.total:5.1f} %"
    if trained.fft is not None:
        yield f"  modules: {len(trained.fft)} in full, {trained.modules_lora} with LoRA, of {len(shape.candidates)}"
    if trained.note:
        yield f"  {trained.note}"


def _tokens(objective, gpus, request):
    one = training.tokens(objective, request["prompt"], gpus)
    yield "an optimizer step, at most"
    yield f"  {one.sequences:,} sequences, {one.tokens:,} tokens" + _assumed(objective, request)
    yield f"  in {one.passes:,} passes of {one.rows} on each GPU, {one.pass_tokens:,} tokens a pass"
    if objective["algorithm"] != "sft":
        rows = objective["prompts_per_generation"] * objective["group_size"]
        uses = objective["updates_per_generation"] * objective["iterations"]
        yield f"  {rows:,} completions are sampled for every {uses} steps, {rows * objective['max_completion_tokens']:,} tokens"


def _assumed(objective, request):
    return "" if objective["algorithm"] == "sft" else f" (prompts of {request['prompt']:,} tokens assumed: --prompt-tokens)"


def _memory(values, objective, shape, trained, request):
    gpus, strategy = compute.total(values), values["compute"]["strategy"]
    arguments = (shape, trained, objective, request["prompt"], gpus, request["memory"])
    moment, parts, engine = training.peak(*arguments)
    total = sum(parts.values())
    yield f"memory of a GPU in training, highest at: {moment}" + ("" if gpus == 1 else f" ({gpus} GPUs, each with its own copy)")
    if strategy != "ddp":
        yield f"  {strategy} divides weights, gradients and AdamW's moments among them; that is not counted: these are ddp's"
    for part, size in parts.items():
        if size:
            yield f"  {part:55} {size / GIB:8.2f} GiB"
    yield f"  {'together, as PyTorch and vLLM count it':55} {total / GIB:8.2f} GiB"
    yield f"  {'CUDA, libraries, what the allocator cannot use (about)':55} {OUTSIDE / GIB:8.2f} GiB"
    other = {**objective, "gradient_checkpointing": not objective["gradient_checkpointing"]}
    _, changed, _ = training.peak(shape, trained, other, *arguments[3:])
    word = "with" if other["gradient_checkpointing"] else "without"
    yield f"  {word + ' gradient checkpointing it would be together':55} {sum(changed.values()) / GIB:8.2f} GiB"
    if engine:
        yield from _engine(engine)
    yield from _verdict(total, engine, arguments, request)


def _engine(engine):
    if engine["who"] == "vLLM":
        share, weights = engine["bytes"] / GIB, engine["weights"] / GIB
        cache, sequences = max(engine["cache_tokens"], 0), max(engine["sequences"], 0)
        yield f"  vLLM's share of {share:.1f} GiB: weights {weights:.1f}, a cache of {cache:,} tokens"
        yield f"  ({sequences} sequences of full length at a time)"
    elif engine["who"] == "transformers":
        sequences, cache = engine["sequences"], engine["cache_tokens"]
        yield f"  transformers samples {sequences:,} sequences at once: keys and values of {cache:,} tokens"


def _verdict(total, engine, arguments, request):
    name, memory = request["gpu"], request["memory"]
    ready = training.fits(engine)
    if total + OUTSIDE <= memory and ready:
        yield f"fits {name} ({memory / GIB:.0f} GiB), {(memory - total - OUTSIDE) / GIB:.1f} GiB to spare"
        return
    if not ready:
        cache, longest = max(engine["cache_tokens"], 0), engine["longest"]
        yield f"does not start on {name}: vLLM's cache of {cache:,} tokens is shorter than its longest sequence, {longest:,}"
    if total + OUTSIDE > memory:
        yield f"does not fit {name} ({memory / GIB:.0f} GiB): {(total + OUTSIDE - memory) / GIB:.1f} GiB too much"
    found = training.remedies(*arguments)
    for change, size in found:
        yield f"  would fit with {change}: {size / GIB:.2f} GiB"
    if not found:
        yield "  no single setting makes it fit; a GPU with more memory, or sharding the weights (FSDP, ZeRO-3), does"


def _hours(config, run, shape, trained, objective, request):
    gpus = config.values["compute"]["gpus"]
    if not gpus:
        yield "GPU-hours: none, compute.gpus is 0; times on a processor are not estimated"
        return
    share = (
        f"at {request['fill']:.0%} of the allowed lengths" if request["fill"] < 1 else "if every sequence is as long as allowed"
    )
    yield f"GPU-hours on {request['gpu']}, estimates from measured rates (an H200's, scaled by data sheet), {share}"
    found = hours.stages(config.values, run, shape, trained, objective, request["prompt"], request["fill"], request["hardware"])
    for stage, what, value in found:
        shown = "-" if value is None else f"{value:.2f}"
        yield f"  {stage:20} {_short(what):50} {shown:>10}"
    yield f"  {'together':71} {sum(value or 0 for *_, value in found):>10.2f}"


def _short(text):
    return text if len(text) <= 50 else f"{text[:47]}..."


def _size(count):
    if count is None:
        return "unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
