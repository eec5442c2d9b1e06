"""Warm-up of the probe: next-token loss on verified traces, training A, B, e and alpha of every branch (Section 3.4).

The paper does not name the warm-up objective, rate or schedule; they are settings. The order of the data is a function
of (seed, epoch), and state is saved every `save_every` steps, so an interrupted warm-up goes on where it was.
"""

import math

import torch
from safetensors.torch import load_file, save_file

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import atomic_path, directory_artifact, read_json, write_json
from hybrid_lora.common.progress import Progress
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import corpus, history
from hybrid_lora.modeling import batches, load, loss, svd_lora

ENTRY = "hybrid_lora.probe.warmup"


def run(settings, model_folder, train, out, state):
    """settings: {rank, init, warmup} of config `probes`. Writes probe.safetensors, history.parquet, manifest.json."""
    options = settings["warmup"]
    inputs = {"model": model_folder / "manifest.json", "train": train}
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    encoded = [batches.encode(words, row["messages"], options["max_length"]) for row in corpus.read(train)]
    encoded = [(ids, prompt) for ids, prompt in encoded if prompt < len(ids)]  # cut before the answer: nothing to learn
    if len(encoded) < options["batch_size"]:
        raise UserError(f"{train}: {len(encoded)} usable rows, probes.*.warmup.batch_size is {options['batch_size']}")
    model = load.model(model_folder, options["dtype"]).to(load.device())
    branches = svd_lora.attach(model, settings["rank"], settings["init"], options["seed"])
    model.to(load.device())
    records = _train(model, branches, encoded, words.pad_token_id, options, work)
    with directory_artifact(out) as folder:
        save_file(svd_lora.state(branches), folder / "probe.safetensors")
        history.write(folder / "history.parquet", records)
        files = [folder / "probe.safetensors", folder / "history.parquet"]
        extra = {"steps": options["steps"], "final_loss": records[-1]["loss"] if records else None}
        write_json(
            folder / "manifest.json", manifest.describe("probe.warmup", settings, inputs, code.sources(ENTRY), files, **extra)
        )
    close_state(work)


def _train(model, branches, encoded, pad_id, options, work):
    parameters = [p for branch in branches.values() for p in (branch.A, branch.B, branch.e, branch.alpha)]
    optimizer = torch.optim.AdamW(parameters, lr=options["learning_rate"], weight_decay=options["weight_decay"])
    records = _resume(work, branches, optimizer)
    progress = Progress("warm-up", options["steps"], start=len(records))
    before = records[-1]["elapsed_s"] if records else 0.0
    model.train()
    for step in range(len(records), options["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = options["learning_rate"] * _schedule(options["schedule"], step, options["steps"])
        batch = batches.collate([encoded[i] for i in _rows(step, options, len(encoded))], pad_id, load.device())
        value, _ = loss.next_token_loss(model, batch)
        if not math.isfinite(value.item()):
            raise UserError(f"warm-up: loss is {value.item()} at step {step + 1}; lower probes.*.warmup.learning_rate")
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        elapsed = before + progress.elapsed()
        records.append({"step": step + 1, "elapsed_s": round(elapsed, 3), "loss": value.item()})
        progress.step(loss=value.item())
        if (step + 1) % options["save_every"] == 0 and step + 1 < options["steps"]:
            _save(work, branches, optimizer, records)
    return records


def _rows(step, options, total):
    """Row numbers of a step's batch: whole batches from a permutation that depends on (seed, epoch) alone."""
    per_epoch = total // options["batch_size"]
    epoch, position = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(derive(options["seed"], "warmup-order", epoch))
    order = torch.randperm(total, generator=generator)
    return order[position * options["batch_size"] : (position + 1) * options["batch_size"]].tolist()


def _schedule(name, step, steps):
    """Factor on the learning rate at a step counted from 0: constant | linear | cosine decay."""
    share = step / max(steps, 1)
    return {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[name]


def _save(work, branches, optimizer, records):
    with atomic_path(work / "warmup.pt") as temporary:
        torch.save({"probe": svd_lora.state(branches), "optimizer": optimizer.state_dict(), "records": records}, temporary)


def _resume(work, branches, optimizer):
    path = work / "warmup.pt"
    if not path.exists():
        return []
    saved = torch.load(path, map_location="cpu", weights_only=True)
    svd_lora.load_state(branches, saved["probe"])
    optimizer.load_state_dict(saved["optimizer"])
    print(f"resuming after step {len(saved['records'])}", flush=True)
    return saved["records"]


def restore(model_folder, folder, dtype):
    """(model with the warmed-up branches on the device, branches) from a model folder and a warm-up folder."""
    settings = read_json(folder / "manifest.json")["settings"]
    model = load.model(model_folder, dtype)
    branches = svd_lora.attach(model, settings["rank"], settings["init"], settings["warmup"]["seed"])
    try:
        svd_lora.load_state(branches, load_file(folder / "probe.safetensors"))
    except (KeyError, RuntimeError, OSError) as error:
        raise UserError(f"{folder}: not a warm-up of {model_folder} ({str(error).splitlines()[0]})") from None
    return model.to(load.device()), branches
