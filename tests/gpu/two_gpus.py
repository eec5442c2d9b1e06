"""Two GPUs: a hybrid trained by two processes (NCCL), with a copy of the model each (DDP) and with a part each (FSDP2, ZeRO-3).

    python tests/gpu/two_gpus.py [--layers 12] [--hidden 1024] [--precision float32 bf16]
                                 [--sides ddp fsdp2 zero3] [--killed ddp fsdp2 zero3]

ZeRO-3 is left out unless DeepSpeed is installed or `--sides` names it. Random weights, replayed completions
(tests/training/replayed.py), the real command under `accelerate launch`. In float32 the losses, gradients' norms and adapters
of all must be those of one process; with a bf16 base under autocast, as configured by default, the losses must be near; then
all must go on from a checkpoint after a kill. Prints every process's peak memory. Status 0 if all that holds; needs two GPUs
and this package's environment; about seven minutes, less with fewer.
"""

import argparse
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "training"), str(HERE.parents[1] / "workflow")]

import pyarrow.parquet as pq  # noqa: E402
import several as runs  # noqa: E402
import torch  # noqa: E402
from killing import Materials  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config  # noqa: E402

from hybrid_lora.common.files import directory_artifact  # noqa: E402
from hybrid_lora.contracts import allocation  # noqa: E402
from hybrid_lora.contracts import modules as modules_file  # noqa: E402
from hybrid_lora.model import publish  # noqa: E402

BF16 = {"precision": "bf16", "dtype": "bfloat16"}
KINDS = {"float32": ({}, 2e-3), "bf16": (BF16, 5e-2)}
SIDES = {"one": (1, ()), "ddp": (2, ()), "fsdp2": (2, runs.FSDP2), "zero3": (2, runs.ZERO3)}
DIVIDED = ("fsdp2", "zero3")
MEASURED = ("loss", "grad_norm", "validation_loss")


def materials(folder, layers, hidden):
    """Model, corpus and an allocation of a tenth of the modules in full."""
    made = Materials(folder)
    words = AutoTokenizer.from_pretrained(made.model)
    shape = {"hidden_size": hidden, "intermediate_size": 11 * hidden // 4, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 128, "max_position_embeddings": 256}
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=len(words), **shape, **heads, **ids))
    shutil.rmtree(made.model)
    with directory_artifact(made.model) as out:
        model.save_pretrained(out)
        words.save_pretrained(out)
        publish.describe(out, "tiny", None, "model.pretrain", {}, {})
    listed = modules_file.read(made.model / "modules.json")
    names = [module["module"] for module in listed["modules"]]
    fft = names[5::10]
    value = dict.fromkeys(allocation.KEYS) | {"schema_version": 1, "model": listed["model"], "fft": fft}
    value |= {"lora": {"rank": 16, "alpha": 32, "dropout": 0.0, "names": [name for name in names if name not in fft]}}
    allocation.write(made.folder / "a.json", value)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(fft)} of {len(names)} modules in full", flush=True)
    return made


def command(made, out, processes, **change):
    small = {"device_batch_size": 8 // processes, "learning_rate": {"full": 1e-5, "lora": 1e-4}, "max_completion_tokens": 128}
    return runs.arguments(made, out, "gspo", **runs.REPLAYED | small | change)


def environment(processes):
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[:processes]), "ACCELERATE_USE_CPU": "false"}


def trained(made, side, out, **change):
    """The records of a finished run; prints what each GPU held."""
    processes, options = SIDES[side]
    log = runs.finished(command(made, out, processes, **change), out / "log", processes, *options, **environment(processes))
    lines = log.splitlines()
    for rank in range(processes):
        told = [line for line in lines if line.startswith(f"process {rank}: peak ")][-1]
        print(f"  {side:6} {told}", flush=True)
        assert (", 0 weights in parts" in told) == (side not in DIVIDED), "not divided as asked"
    return pq.read_table(out / "history.parquet").to_pylist()


def gone_on(made, side, out, **change):
    """The same for a run whose last process is killed after a checkpoint, and that is started again."""
    processes, options = SIDES[side]
    words = command(made, out, processes, **change)
    process = runs.start(words, out / "log-1", processes, *options, **environment(processes))
    runs.wait(process, out / "log-1", 3)
    runs.workers(process)[-1].kill()
    process.wait(120)
    log = runs.finished(words, out / "log-2", processes, *options, **environment(processes))
    print(f"  {side:6} {next(line for line in log.splitlines() if 'resuming after' in line)}", flush=True)
    return pq.read_table(out / "history.parquet").to_pylist()


def off(one, two):
    """The largest difference in what was measured, relative to the largest value."""
    found = {}
    for name in MEASURED:
        pairs = [(a[name], b[name]) for a, b in zip(one, two, strict=True) if a[name] is not None]
        found[name] = max(abs(a - b) for a, b in pairs) / max(abs(a) for a, _ in pairs)
    return found


def adapters_off(one, two):
    """The norm of the difference of LoRA's B, relative to that of B, which starts at 0.

    Not the largest difference: Adam makes whole steps of gradients next to zero, whose sign is rounding's.
    """
    a, b = (load_file(folder / "made/adapter_model.safetensors") for folder in (one, two))
    pairs = [(a[name], b[name]) for name in a if "lora_B" in name]
    return math.sqrt(sum((x - y).square().sum().item() for x, y in pairs) / sum(x.square().sum().item() for x, _ in pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--precision", nargs="+", default=list(KINDS), choices=KINDS)
    known = [side for side in SIDES if side != "one"]
    usual = [side for side in known if side != "zero3" or importlib.util.find_spec("deepspeed")]
    parser.add_argument("--sides", nargs="+", default=usual, choices=known)
    parser.add_argument("--killed", nargs="*", choices=known, help="of the sides, all unless said")
    given = parser.parse_args()
    killed = given.sides if given.killed is None else given.killed
    if not set(killed) <= set(given.sides):
        sys.exit(f"--killed must be of --sides, {' '.join(given.sides)}")
    if torch.cuda.device_count() < 2:
        sys.exit(f"two GPUs are needed, {torch.cuda.device_count()} found")
    bad = []

    def judged(what, value, limit):
        print(f"  {what}: {value:.2e} (at most {limit:g})", flush=True)
        if not value <= limit:
            bad.append(what)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        made = materials(folder / "materials", given.layers, given.hidden)
        for kind in given.precision:
            change, limit = KINDS[kind]
            print(kind)
            records = {side: trained(made, side, folder / kind / side, **change) for side in ("one", *given.sides)}
            for side in given.sides:
                for name, value in off(records["one"], records[side]).items():
                    judged(f"{kind}, {side}: {name} against one process", value, limit)
                if kind == "float32":
                    value = adapters_off(folder / kind / "one", folder / kind / side)
                    judged(f"{kind}, {side}: adapter against one process", value, 2e-2)
        print(f"killed and started again, {kind}")
        for side in killed:
            again = gone_on(made, side, folder / "killed" / side, **change)
            for name, value in off(records[side], again).items():
                judged(f"killed, {side}: {name} against the run that was not", value, 5e-2)
    print(json.dumps({"failed": bad, "gpus": torch.cuda.get_device_name(0), "torch": torch.__version__}))
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    sys.exit(main())
