"""GPU-hours of a run's stages from operation counts and rates measured once. Estimates: real data are shorter, GPUs differ.

Operations of a pass over T tokens: 2 N T for the N weights of linears and LM head, 2 T L (length) (heads) for causal
attention, in units of one forward pass; a backward pass costs one more for the gradients of activations and one for those of
weights trained in full. Rates are of benchmarks in this repository on one H200 (Qwen2.5-1.5B shape, 8 x 1024 tokens, bf16):
full fine-tuning 0.247 s, PEFT's hybrid 0.254 s a step, a plain forward pass 57 ms, a Hybrid-Score batch 239 ms; vLLM 61,000
and transformers 3,100 tokens/s at 512 and 256 sequences.
"""

from dataclasses import replace

from hybrid_lora.config import probing
from hybrid_lora.plan import training

RATES = {"full": 315e12, "peft": 205e12, "fast": 270e12, "forward": 450e12, "score": 430e12}  # operations a second
DECODING = {"vllm": 61_000, "vllm eager": 15_200, "transformers": 3_100}  # tokens a second, 1.5B
DECODED = 1.544e9  # parameters of the model that these were measured with
START = 90  # seconds for a job to import, load and compile


def stages(values, run, shape, trained, objective, prompt, fill, gpu):
    """[(stage, what, hours or None where no GPU is used)] in the order of the pipeline; fill: share of the allowed lengths."""
    found = [("data", "corpus and benchmarks", None), _model(values["models"][run.model], shape, gpu)]
    method = values["methods"][run.method]
    if method["placement"] == "criterion":
        found += _probe(values, method, shape, trained, prompt, fill, gpu)
        found += [("scores, allocation", method["criterion"], None)]
    if objective:
        found.append(("training", objective["algorithm"], _training(shape, trained, objective, prompt, fill, gpu)))
    return [*found, ("evaluation", ", ".join(values["evaluation"]["benchmarks"]), _evaluation(values, shape, fill, gpu))]


def forward(shape, tokens, length):
    """Operations of one forward pass."""
    linears = sum(c.params for c in shape.candidates) + shape.embedding
    return 2 * tokens * (linears + shape.layers * length * shape.width("q"))


def _hours(operations, rate, gpu):
    return operations / (RATES[rate] * gpu.arithmetic) / 3600


def _decoding(shape, tokens, engine, gpu):
    return tokens / (DECODING[engine] * DECODED / shape.total * gpu.bandwidth) / 3600


def _model(entry, shape, gpu):
    if entry["source"] != "scratch":
        return "model", f"from the {entry['source']}" if entry["source"] == "hub" else "linked", None
    options = entry["pretraining"]
    tokens = options["steps"] * options["batch_size"] * options["max_length"]
    return "model", "trained from scratch", _hours(3 * forward(shape, tokens, options["max_length"]), "full", gpu)


def _probe(values, method, shape, trained, prompt, fill, gpu):
    """The probe's jobs that a method's criterion needs."""
    entry, kind = values["probes"][method["probe"]], probing.SOURCES[method["criterion"]]
    if kind is None:
        return []
    warmup = entry["warmup"]
    length = int(warmup["max_length"] * fill)
    once = forward(shape, warmup["steps"] * warmup["batch_size"] * length, length)
    again = 1 if warmup["gradient_checkpointing"] else 0
    jobs = []
    if kind in ("adalora", "autolora"):  # AutoLoRA also takes a step of its weights on held-out rows
        return [("probe", kind, _hours((2 + again) * once * (2 if kind == "autolora" else 1), "peft", gpu) + START / 3600)]
    if kind == "full-sensitivity":
        jobs.append(("full warm-up", (3 + again) * once, "full"))
    elif warmup["objective"] == "nll":
        jobs.append(("warm-up", (2 + again) * once, "peft"))
    jobs += _measurements(entry, kind, shape, fill)
    found = [("probe", what, _hours(operations, rate, gpu) + START / 3600) for what, operations, rate in jobs]
    if kind != "full-sensitivity" and warmup["objective"] != "nll":
        objective = values["objectives"][warmup["objective"]]
        hours = _training(shape, replace(trained, fft=[], full=0), _warmed(objective, warmup), prompt, fill, gpu)
        return [("probe", f"warm-up by {warmup['objective']}", hours), *found]
    return found


def _warmed(objective, warmup):
    """An objective as a probe is warmed up by it: on the branches alone, by PEFT-like layers, without validation."""
    own = {key: warmup[key] for key in ("steps", "gradient_checkpointing")}
    return objective | own | {"fast_layers": False, "validation": {"every": 1, "rows": 0}}


def _measurements(entry, kind, shape, fill):
    section = {"sensitivity": "sensitivity", "full-sensitivity": "sensitivity", "perturbation": "perturbation"}.get(kind)
    section = entry[section or "lora_drop"] if kind != "warmup" else None
    if section is None:
        return []
    batches = section.get("partitions", section.get("batches"))
    length = int(section["max_length"] * fill)
    once = forward(shape, batches * section["batch_size"] * length, length)
    again = 1 if section.get("gradient_checkpointing") else 0
    if kind == "sensitivity":
        return [("sensitivities, two masked passes a batch", (4 + 2 * again) * once, "score")]
    if kind == "full-sensitivity":
        return [("sensitivities of full fine-tuning", (3 + again) * once, "full")]
    if kind == "perturbation":
        return [(f"perturbation, {1 + len(shape.candidates)} passes a batch", (1 + len(shape.candidates)) * once, "forward")]
    return [("output energies", once, "forward")]


def _training(shape, trained, objective, prompt, fill, gpu):
    """Updates, rollouts, log-probabilities of the old policy and the reference, validation."""
    everything, steps = trained.fft is None, objective["steps"]
    again = 1 if objective["gradient_checkpointing"] else 0
    rate = "full" if everything else "fast" if training.fast(trained, objective) else "peft"
    own = 1.0 if everything else 0.1 + trained.full / sum(c.params for c in shape.candidates)
    if objective["algorithm"] == "sft":
        length = int(objective["max_length"] * fill)
        operations = (2 + again + own) * forward(shape, steps * objective["batch_size"] * length, length)
        return _hours(operations, rate, gpu) + _validation(shape, objective, length, gpu) + START / 3600
    answer = int(objective["max_completion_tokens"] * fill)
    length = prompt + answer
    rows = objective["prompts_per_generation"] * objective["group_size"]
    sequences = steps * rows // objective["updates_per_generation"]
    sampled = -(-steps // (objective["updates_per_generation"] * objective["iterations"])) * rows
    hours = _hours((2 + again + own) * forward(shape, sequences * length, length), rate, gpu)
    old = objective["updates_per_generation"] * objective["iterations"] > 1
    hours += _hours((old + (objective["kl"] > 0)) * forward(shape, sampled * length, length), "forward", gpu)
    engine = "vllm" if objective["rollouts"] == "vllm" else "transformers"
    return hours + _decoding(shape, sampled * answer, engine, gpu) + _validation(shape, objective, length, gpu) + START / 3600


def _validation(shape, objective, length, gpu):
    options = objective["validation"]
    times = -(-objective["steps"] // options["every"])
    return _hours(forward(shape, times * options["rows"] * length, length), "forward", gpu)


def _evaluation(values, shape, fill, gpu):
    engine = values["evaluation"]["backend"]
    if engine == "vllm" and values["evaluation"]["vllm"]["enforce_eager"]:
        engine = "vllm eager"
    entries = [values["benchmarks"][name] for name in values["evaluation"]["benchmarks"]]
    tokens = sum((e["subset"] or e["problems"]) * e["samples"] * int(e["max_new_tokens"] * fill) for e in entries)
    return _decoding(shape, tokens, engine, gpu) + len(entries) * START / 3600
