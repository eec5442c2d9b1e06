"""Benchmark: tokens/s of vLLM's rollouts inside GRPO training against bare vLLM with the same engine settings, one GPU.

    python tests/benchmarks/rollouts.py [--shape 1.5B] [--prompts 64] [--group 8] [--generations 4] [--vocabulary N] [--json FILE]

Ours: the real trainer on a random hybrid of 10 % with the engine colocated, `vllm_throughput`'s random model. Tokens/s are the
completion tokens of a generation over its `time_generate_s` as the history records it: prompts rendered and tokenized, sampling,
log-probabilities taken over from the engine, completions decoded; `with_sync` adds the weights' way to the engine. The first
generation warms up and is not counted.

Bare: one `LLM.generate` of the same prompts in an engine with the same settings, without log-probabilities, with text and as
token ids alone, after a full pass of each: `bare` runs the engine as vLLM does by default, in a process beside its caller's;
`bare_inside` in its caller's own, as training has it (faster where cores are few). Each engine in a process of its own, medians;
`ratio` is ours over the fastest bare one and is to be at least 0.8. On a CPU: --shape tiny, and VLLM_CPU_KVCACHE_SPACE=1.
"""

import argparse
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

import torch
import vllm_throughput
import yaml
from samples import conversations

from hybrid_lora.modeling import fast_layers, hybrid, load, trainer
from hybrid_lora.objectives import rl
from hybrid_lora.objectives.timing import PARTS

ROOT = Path(__file__).resolve().parents[2]
# One host; several processes of vLLM find each other on loopback.
HOST = rl.PRIVATE | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
PROMPT = 128  # tokens kept free for a prompt


def objective_of(given):
    """The configuration's grpo, of the benchmark's size."""
    objective = yaml.safe_load((ROOT / "config/config.yaml").read_text())["objectives"]["grpo"]
    window = objective["updates_per_generation"] * objective["iterations"]
    engine = {
        "mode": "colocate",
        "gpu_memory_utilization": given.engine,
        "tensor_parallel": 1,
        "sleep": False,
        "importance_correction": "token",
    }
    engine |= {"max_model_len": PROMPT + given.max_new_tokens, "server": "http://127.0.0.1:8000", "group_port": 51216}
    return objective | {
        "steps": given.generations * window,
        "sources": ["math"],
        "prompts_per_generation": given.prompts,
        "group_size": given.group,
        "device_batch_size": given.device_batch_size,
        "max_completion_tokens": given.max_new_tokens,
        "save_every": given.generations * window,
        "rollouts": "vllm",
        "vllm": engine,
    }


def ours(folder, given):
    """{ours: [{tokens, generate, ..., sync}] of each generation}, seconds of its window by part."""
    import hybrid_step

    if not torch.cuda.is_available():  # vLLM's CPU build packs weights as it loads them and could not take new ones
        from vllm.model_executor.layers import utils

        utils.dispatch_cpu_unquantized_gemm = _plain_product
    objective, record = objective_of(given), trainer.Record("training", ("loss", *(f"time_{part}_s" for part in PARTS)))
    model = load.model(folder / "model", "bfloat16")
    peft, _ = hybrid_step.placement(model)
    rows, words = conversations(given.prompts), load.tokenizer(folder / "model")
    grading = {"sandbox": "limits", "program_timeout_s": 5, "program_memory_mb": 512, "math_timeout_s": 5}
    built = rl.build(model, peft, words, rows, objective, 0, folder / "state", [record], grading, 2, "benchmark")
    built.args.save_strategy = "no"
    hybrid.to_fp32_trainable(built.model)
    if objective["fast_layers"]:
        fast_layers.apply_to(built)
    record.quiet(built).train()
    return {"ours": generations(record.history(), rl.window(objective), given.prompts * given.group)}


def _plain_product(layer, remove_weight):
    layer.cpu_linear = torch.nn.functional.linear


def _own_vocabulary(shape):
    from hybrid_lora.allocation import shapes

    return None if shape == "tiny" else shapes.model(shape).config.vocab_size


def generations(records, window, completions):
    """[{tokens, part: seconds}]: the history's records, one row for the updates of each generation."""
    found = []
    for first in range(0, len(records), window):
        group = records[first : first + window]
        row = {"tokens": round(group[0]["completions/mean_length"] * completions)}
        found.append(row | {part: sum(r[f"time_{part}_s"] for r in group) for part in PARTS})
    return found


def bare(folder, given):
    """{text, ids: [{tokens, generate}] of each pass}; the first warms up."""
    from vllm import LLM, SamplingParams

    words = load.tokenizer(folder / "model")
    prompts = [row["messages"][:-1] for row in conversations(given.prompts)]
    ids = words.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    engine = LLM(
        model=str(folder / "model"),
        runner="generate",  # vLLM takes our modules.json for that of an embedding model
        gpu_memory_utilization=given.engine,
        max_model_len=PROMPT + given.max_new_tokens,
        max_num_seqs=given.prompts * given.group,  # from here on as TRL sets them
        max_num_batched_tokens=4096,
        logprobs_mode="processed_logprobs",
        seed=0,
    )
    common = {"n": given.group, "temperature": objective_of(given)["temperature"], "max_tokens": given.max_new_tokens}
    found = {"text": [], "ids": []}
    for _ in range(given.generations):
        for name, rows in found.items():
            engine.reset_prefix_cache()  # as new weights do
            params = SamplingParams(**common, detokenize=name == "text")
            began = time.monotonic()
            outputs = engine.generate([{"prompt_token_ids": one} for one in ids], params, use_tqdm=False)
            seconds = time.monotonic() - began
            rows.append({"tokens": sum(len(o.token_ids) for output in outputs for o in output.outputs), "generate": seconds})
    return found


def measured(side, folder, **environment):
    """What one side found, in a process of its own; what the engine prints goes to stderr."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder)]
    subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | HOST | environment)
    return json.loads((folder / f"{side}.json").read_text())


def speed(rows, *parts):
    """The median of tokens/s without the first row."""
    return statistics.median(row["tokens"] / sum(row[part] for part in parts) for row in rows[1:])


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1.5B", help="tiny, or a shape of Qwen2.5")
    parser.add_argument("--vocabulary", type=int, metavar="N", help="tokens of the model, the shape's unless said; at least 300")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="of a generation")
    parser.add_argument("--group", type=int, default=8, metavar="N", help="completions of a prompt")
    parser.add_argument("--generations", type=int, default=4, metavar="N", help="at least 2; the first warms up")
    parser.add_argument("--max-new-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--device-batch-size", type=int, default=16, metavar="N", help="of an update")
    parser.add_argument("--engine", type=float, default=0.4, metavar="SHARE", help="vLLM's share of the memory")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    for name in ("--side", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def show(result):
    """The split of each generation as a table, and the ratio."""
    print(f"{'generation':>10} {'tokens':>8} " + " ".join(f"{part:>9}" for part in PARTS) + "  seconds")
    for i, row in enumerate(result["ours"]):
        print(f"{i:>10} {row['tokens']:>8} " + " ".join(f"{row[part]:9.2f}" for part in PARTS))
    for name, value in result["tokens_per_s"].items():
        print(f"{name:>16} {value:12,.0f} tokens/s")
    print(f"ratio {result['ratio']:.3f}, with sync {result['ratio_with_sync']:.3f}; to be at least 0.8")


def main():
    given = options()
    if given.generations < 2:
        sys.exit("rollouts: --generations must be at least 2; the first is not counted")
    if given.side:
        folder = Path(given.folder)
        rows = {"ours": ours, "bare": bare}[given.side](folder, given)
        (folder / f"{given.side}.json").write_text(json.dumps(rows), encoding="utf-8")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        vllm_throughput.build(folder / "model", given.shape, given.vocabulary or _own_vocabulary(given.shape))
        rows = {}
        for name, side, beside in (("", "ours", "0"), ("bare_", "bare", "1"), ("bare_inside_", "bare", "0")):
            found = measured(side, folder, VLLM_ENABLE_V1_MULTIPROCESSING=beside)
            rows |= {f"{name}{kind}": passes for kind, passes in found.items()}
            for kind, passes in found.items():  # as it comes: an engine's start takes minutes
                each = ", ".join(f"{row['tokens'] / row['generate']:,.0f}" for row in passes)
                print(f"{time.monotonic() - began:6.0f} s  {name}{kind}: {each} tokens/s, the first a warm-up", flush=True)
    speeds = {name: speed(found, "generate") for name, found in rows.items()}
    speeds["ours_with_sync"] = speed(rows["ours"], "generate", "sync")
    bare_speed = max(value for name, value in speeds.items() if name.startswith("bare"))
    ratios = {"ratio": speeds["ours"] / bare_speed, "ratio_with_sync": speeds["ours_with_sync"] / bare_speed}
    settings = {key: value for key, value in vars(given).items() if key not in ("side", "folder", "json")}
    settings["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result = {"settings": settings, "tokens_per_s": speeds, **ratios, **rows, "seconds": time.monotonic() - began}
    show(result)
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
