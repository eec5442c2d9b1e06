"""Benchmark: tokens/s of `evaluation complete` with vLLM against bare vLLM on the same prompts, seeds and settings.

    python tests/benchmarks/vllm_throughput.py [--shape 1.5B] [--problems 500] [--samples 1] [--rounds 3] [--json FILE]

A random model of the shape with a tokenizer of 300 tokens: it ends a completion about every 300 tokens, so lengths differ as
they do with real ones. Bare: one `LLM.generate` on all prompts, in the same order. Ours: the command itself, batches written
to disk included. In turns, each in a fresh process; timed from the engine's being ready, and warm after as many completions, to
the last completion, medians. Ours over bare is to be at least 0.9. On a CPU use `--shape tiny` and set VLLM_CPU_KVCACHE_SPACE.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))

from hybrid_lora.common.files import directory_artifact
from hybrid_lora.common.seeds import derive
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import complete, prompts, vllm_backend
from hybrid_lora.modeling import load

TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
PROMPT = "{problem}\nThink step by step."


def build(folder, shape, vocabulary=None):
    """A model folder with random weights of the shape; of 300 tokens, or of as many as said, where most are in no prompt."""
    import torch
    from samples import conversations
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.allocation import shapes
    from hybrid_lora.model import publish, tokenizer

    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    torch.manual_seed(0)
    known = TINY if shape == "tiny" else {key: getattr(shapes.model(shape).config, key) for key in TINY}
    ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    size = max(len(words), vocabulary or 0)
    model = Qwen2ForCausalLM(Qwen2Config(**known, vocab_size=size, max_position_embeddings=4096, **ends))
    with directory_artifact(folder) as out:
        model.to(torch.float32 if shape == "tiny" else torch.bfloat16).save_pretrained(out)
        words.save_pretrained(out)
        _widen(out / "tokenizer.json", range(len(words), size))
        publish.describe(out, shape, None, "model.pretrain", {}, {})


def _widen(file, ids):
    state = json.loads(file.read_text())
    state["model"]["vocab"] |= {f"\u0120w{i}": i for i in ids}
    file.write_text(json.dumps(state))


def bare(model, problems, settings):
    """{seconds, tokens} of LLM.generate."""
    from vllm import LLM, SamplingParams

    rows, _ = benchmarks.read(problems)
    words, chosen = load.tokenizer(model), settings["vllm"]
    texts = [(prompts.render(words, PROMPT, row, "b"), row["id"], i) for row in rows for i in range(settings["samples"])]
    texts.sort(key=lambda item: (len(item[0]), *item[1:]))
    inputs = [{"prompt_token_ids": words(text, add_special_tokens=False)["input_ids"]} for text, *_ in texts]
    common = {"temperature": settings["temperature"], "top_p": settings["top_p"], "max_tokens": settings["max_new_tokens"]}
    params = [SamplingParams(**common, seed=derive(0, "bare", i) % 2**31) for i in range(len(inputs))]
    extra = {"enforce_eager": chosen["enforce_eager"], "enable_chunked_prefill": None if load.device().type == "cuda" else False}
    engine = LLM(model=str(model), runner="generate", dtype=settings["dtype"], enable_prefix_caching=True, **extra)
    engine.generate(inputs, params, use_tqdm=False)
    began = time.monotonic()
    outputs = engine.generate(inputs, params, use_tqdm=False)
    return {"seconds": time.monotonic() - began, "tokens": sum(len(output.outputs[0].token_ids) for output in outputs)}


def ours(model, problems, settings):
    """{seconds, tokens} of `evaluation complete`."""
    real, times = vllm_backend.open_engine, []

    @contextlib.contextmanager
    def timed(*given):
        with real(*given) as engine:
            engine([f"Compute {i}+1." for i in range(problems_of(problems) * settings["samples"])], 1)
            times.append(time.monotonic())
            yield engine
            times.append(time.monotonic())

    vllm_backend.open_engine = timed
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "c.parquet"
        places = {"model": model, "policy": [], "benchmark": problems, "out": out, "state": Path(folder) / "state"}
        complete.run(argparse.Namespace(settings=settings, **places))
        return {"seconds": times[1] - times[0], "tokens": sum(row["tokens"] for row in completions.read(out))}


def problems_of(path):
    return len(benchmarks.read(path)[0])


def measured(side, folder, settings):
    """The result of one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--settings", json.dumps(settings)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | vllm_backend.PRIVATE)
    return json.loads(done.stdout.splitlines()[-1])


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1.5B", help="tiny, or a shape of Qwen2.5")
    parser.add_argument("--problems", type=int, default=500, metavar="N")
    parser.add_argument("--samples", type=int, default=1, metavar="N")
    parser.add_argument("--max-new-tokens", type=int, default=1024, metavar="N")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="of `evaluation complete`")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs, no compilation")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    for name in ("--side", "--folder", "--settings"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    given = options()
    if given.side:
        folder = Path(given.folder)
        side = {"bare": bare, "ours": ours}[given.side]
        result = side(folder / "model", folder / "problems.parquet", json.loads(given.settings))
        print("\n" + json.dumps(result), flush=True)
        return
    settings = {"run": "r", "seed": 0, "benchmark": "math-500", "prompt": PROMPT, "samples": given.samples, "temperature": 1.0}
    settings |= {"top_p": 1.0, "max_new_tokens": given.max_new_tokens, "backend": "vllm", "batch_size": given.batch_size}
    settings |= {"dtype": "float32" if given.shape == "tiny" else "bfloat16", "vllm": {"enforce_eager": given.eager}}
    speeds = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        build(folder / "model", given.shape)
        rows = [
            {"id": f"p{i}", "problem": f"Compute {i} + {7 * i}{' + 1' * (i % 40)}.", "gold": "0"} for i in range(given.problems)
        ]
        benchmarks.write(folder / "problems.parquet", rows, "math-500")
        for _ in range(given.rounds):
            for side, found in speeds.items():
                result = measured(side, folder, settings)
                found.append(result["tokens"] / result["seconds"])
                print(f"{side}: {found[-1]:.0f} tokens/s, {result['seconds']:.1f} s", flush=True)
    medians = {side: statistics.median(found) for side, found in speeds.items()}
    result = {"shape": given.shape, "tokens_per_s": medians, "rounds": speeds, "ratio": medians["ours"] / medians["bare"]}
    print(json.dumps(result, indent=1))
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
