"""Completions of one run on one benchmark, with transformers or vLLM, in batches that survive an interruption.

Sampling: every batch draws from its own seed, derived from (run seed, benchmark, batch), so a batch that is done again
is the same. The adapter is merged in memory; vLLM gets a temporary folder that is deleted afterwards.
"""

import hashlib

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import prompts
from hybrid_lora.modeling import load

ENTRY = "hybrid_lora.evaluation.complete"


def run(arguments):
    """settings: {run, seed, benchmark, prompt, samples, temperature, top_p, max_new_tokens, backend, batch_size, dtype}."""
    settings = arguments.settings
    inputs = {"model": arguments.model / "manifest.json", "benchmark": arguments.benchmark}
    policy = next(iter(arguments.policy), None)
    if policy:
        inputs["policy"] = policy / "manifest.json"
    work = open_state(arguments.state, settings, inputs.values(), code.sources(ENTRY))
    rows, _ = benchmarks.read(arguments.benchmark)
    words = load.tokenizer(arguments.model)
    wanted = [
        {"id": row["id"], "sample": sample, "prompt": prompts.render(words, settings["prompt"], row, arguments.benchmark)}
        for row in rows
        for sample in range(settings["samples"])
    ]
    wanted.sort(key=lambda item: (len(item["prompt"]), item["id"], item["sample"]))  # little padding in a batch
    finished = _batches(settings, arguments.model, policy, wanted, words, work)
    order = {row["id"]: i for i, row in enumerate(rows)}
    finished.sort(key=lambda row: (order[row["id"]], row["sample"]))
    completions.write(arguments.out, finished, {"run": settings["run"], "benchmark": settings["benchmark"]})
    manifest.write_beside(arguments.out, "evaluation.complete", settings, inputs, code.sources(ENTRY))
    close_state(work)


def _batches(settings, model, policy, wanted, words, work):
    size = settings["batch_size"]
    starts = range(0, len(wanted), size)
    paths = {start: work / f"batch-{start // size:06d}.parquet" for start in starts}
    missing = [start for start in starts if not paths[start].exists()]
    done = len(wanted) - sum(min(size, len(wanted) - start) for start in missing)
    progress = Progress(f"{settings['run']} {settings['benchmark']}", len(wanted), start=done)
    if missing:
        with _backend(settings["backend"]).open_engine(model, policy, words, settings) as generate:
            for start in missing:
                items = wanted[start : start + size]
                seed = derive(settings["seed"], "sampling", settings["benchmark"], start // size)
                rows = [
                    {
                        "id": item["id"],
                        "sample": item["sample"],
                        "prompt_sha256": hashlib.sha256(item["prompt"].encode()).hexdigest(),
                        **result,
                    }
                    for item, result in zip(items, generate([item["prompt"] for item in items], seed))
                ]
                completions.write(paths[start], rows)
                progress.step(len(rows))
    return [row for start in starts for row in completions.read(paths[start])]


def _backend(name):
    if name == "vllm":
        from hybrid_lora.evaluation import vllm_backend as backend
    elif name == "transformers":
        from hybrid_lora.evaluation import transformers_backend as backend
    else:
        raise UserError(f"evaluation.backend is '{name}'; allowed: transformers, vllm")
    return backend
