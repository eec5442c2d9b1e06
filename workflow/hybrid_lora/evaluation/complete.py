"""Completions of one run on one benchmark, with transformers or vLLM, in batches that survive an interruption.

Sampling: every batch draws from its own seed, derived from (run seed, benchmark, batch), so a batch that is done again
is the same. The adapter is merged in memory; vLLM gets a temporary folder that is deleted afterwards. A prompt that
leaves the model no room is refused before any weights are loaded; completions that are cut off are counted in the log.
"""

import hashlib
import sys
from pathlib import Path

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.common.progress import Progress
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import prompts
from hybrid_lora.modeling import load

ENTRY = "hybrid_lora.evaluation.complete"
CHOICES = {
    "backend": {
        "vllm": ["hybrid_lora.evaluation.vllm_backend"],
        "transformers": ["hybrid_lora.evaluation.transformers_backend"],
    }
}


def run(arguments):
    """settings: {run, seed, benchmark, prompt, samples, temperature, top_p, max_new_tokens, backend, batch_size, dtype}.

    Optional: few_shot (see prompts.render); vllm, read by that backend alone (see vllm_backend.DEFAULTS).
    """
    settings = arguments.settings
    inputs = {"model": arguments.model / "manifest.json", "benchmark": arguments.benchmark}
    policy = next(iter(arguments.policy), None)
    if policy:
        inputs["policy"] = policy / "manifest.json"
    work = open_state(arguments.state, settings, inputs.values(), code.sources(ENTRY, settings))
    rows, _ = benchmarks.read(arguments.benchmark)
    words = load.tokenizer(arguments.model)
    shots = (settings["few_shot"], benchmarks.about(arguments.benchmark)["examples"]) if settings.get("few_shot") else ()
    wanted = [
        {"id": row["id"], "sample": sample, "prompt": prompts.render(words, settings["prompt"], row, arguments.benchmark, *shots)}
        for row in rows
        for sample in range(settings["samples"])
    ]
    _check_lengths(wanted, words, arguments.model, settings)
    wanted.sort(key=lambda item: (len(item["prompt"]), item["id"], item["sample"]))  # little padding in a batch
    finished = _batches(settings, arguments.model, policy, wanted, words, work)
    order = {row["id"]: i for i, row in enumerate(rows)}
    finished.sort(key=lambda row: (order[row["id"]], row["sample"]))
    completions.write(arguments.out, finished, {"run": settings["run"], "benchmark": settings["benchmark"]})
    manifest.write_beside(arguments.out, "evaluation.complete", settings, inputs, code.sources(ENTRY, settings))
    _report_truncated(finished, settings)
    close_state(work)


def _check_lengths(wanted, words, model, settings):
    """UserError if a prompt fills the model's context; a line in the log if prompts leave less than max_new_tokens of it."""
    context = settings.get("vllm", {}).get("max_model_len") if settings["backend"] == "vllm" else None
    context = context or read_json(Path(model) / "config.json").get("max_position_embeddings")
    if context is None or not wanted:
        return
    prompts = {item["prompt"]: item["id"] for item in wanted}
    ids = words(list(prompts), add_special_tokens=False)["input_ids"]
    lengths = {name: len(tokens) for name, tokens in zip(prompts.values(), ids)}
    longest = max(lengths, key=lengths.get)
    if lengths[longest] >= context:
        raise UserError(
            f"{settings['benchmark']}: the prompt of id '{longest}' has {lengths[longest]} tokens, which leaves no room in the "
            f"context of {context}; allowed: shorter prompts, fewer few-shot examples, or a model with a longer context"
        )
    tight = sum(length + settings["max_new_tokens"] > context for length in lengths.values())
    if tight:
        print(
            f"{settings['benchmark']}: {tight} of {len(lengths)} prompts leave less than max_new_tokens, "
            f"{settings['max_new_tokens']}, of the context of {context}",
            file=sys.stderr,
            flush=True,
        )


def _report_truncated(rows, settings):
    cut = sum(row["finish_reason"] == "length" for row in rows)
    what = f"{settings['run']} {settings['benchmark']}: {cut} of {len(rows)} completions are cut off (finish_reason length)"
    print(what, file=sys.stderr, flush=True)


def _batches(settings, model, policy, wanted, words, work):
    size = settings["batch_size"]
    starts = range(0, len(wanted), size)
    paths = {start: work / f"batch-{start // size:06d}.parquet" for start in starts}
    missing = [start for start in starts if not paths[start].exists()]
    done = len(wanted) - sum(min(size, len(wanted) - start) for start in missing)
    progress = Progress(f"{settings['run']} {settings['benchmark']}", len(wanted), start=done)
    if missing:
        with _backend(settings["backend"]).open_engine(model, policy, words, settings) as generate:
            batches = [
                (
                    start,
                    [item["prompt"] for item in wanted[start : start + size]],
                    derive(settings["seed"], "sampling", settings["benchmark"], start // size),
                )
                for start in missing
            ]
            # An engine that schedules by itself takes all batches and hands back each that is finished.
            stream = getattr(generate, "stream", None) or (lambda given: _in_turn(generate, given))
            for start, results in stream(batches):
                completions.write(paths[start], [_row(item, r) for item, r in zip(wanted[start : start + size], results)])
                progress.step(len(results))
    return [row for start in starts for row in completions.read(paths[start])]


def _in_turn(generate, batches):
    for start, texts, seed in batches:
        yield start, generate(texts, seed)


def _row(item, result):
    prompt = hashlib.sha256(item["prompt"].encode()).hexdigest()
    return {"id": item["id"], "sample": item["sample"], "prompt_sha256": prompt, **result}


def _backend(name):
    if name == "vllm":
        from hybrid_lora.evaluation import vllm_backend as backend
    elif name == "transformers":
        from hybrid_lora.evaluation import transformers_backend as backend
    else:
        raise UserError(f"evaluation.backend is '{name}'; allowed: transformers, vllm")
    return backend
