"""Warm-up of the probe: trains A, B, e and alpha of every SVD-LoRA branch, W and b frozen (Eq. 7, Section 3.4).

The paper does not name the warm-up's objective, rate or schedule; they are settings. Default is the next-token loss on
verified traces, here; `objective` may name an RL objective instead: `warmup_rl`, a command of its own, so that a change of
rewards or graders reruns only what uses them.
"""

import torch
from safetensors.torch import load_file, save_file

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import directory_artifact, read_json, write_json
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import history, weights
from hybrid_lora.modeling import load, loss, svd_lora
from hybrid_lora.probe import loop

ENTRY = "hybrid_lora.probe.warmup"


def run(settings, model_folder, train, out, state):
    """settings: {rank, init, warmup} of config `probes`. Writes probe.safetensors, history.parquet, manifest.json into `out`."""
    options = settings["warmup"]
    inputs = {"model": model_folder / "manifest.json", "train": train}
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    encoded = loop.encode(words, train, options)
    model, branches = attach(settings, model_folder)
    records = _next_token(model, branches, encoded, words.pad_token_id, options, work)
    publish(out, branches, records, settings, inputs, ENTRY)
    close_state(work)


def attach(settings, model_folder):
    """(original model on the device with fresh branches, branches)."""
    options = settings["warmup"]
    model = load.model(model_folder, options["dtype"])
    branches = svd_lora.attach(model, settings["rank"], settings["init"], options["seed"])
    loss.check(model.to(load.device()))
    load.set_checkpointing(model, options["gradient_checkpointing"])
    return model, branches


def publish(out, branches, records, settings, inputs, entry):
    """Write the folder of a finished warm-up; entry: dotted name of the module that trained it."""
    with directory_artifact(out) as folder:
        save_file(svd_lora.state(branches), folder / "probe.safetensors")
        history.write(folder / "history.parquet", records)
        files = [folder / "probe.safetensors", folder / "history.parquet"]
        extra = {"steps": settings["warmup"]["steps"], "final_loss": records[-1]["loss"] if records else None}
        extra["model"] = weights.of_model(inputs["model"].parent)
        about = manifest.describe(
            entry.removeprefix("hybrid_lora."), settings, inputs, code.sources(entry, settings), files, **extra
        )
        write_json(folder / "manifest.json", about)


def _next_token(model, branches, encoded, pad_id, options, work):
    parameters = [p for branch in branches.values() for p in (branch.A, branch.B, branch.e, branch.alpha)]
    optimizer = torch.optim.AdamW(parameters, lr=options["learning_rate"], weight_decay=options["weight_decay"])
    model.train()

    def update(step, rows):
        value = loop.backward(model, encoded.batch(rows), pad_id, options)
        optimizer.step()
        optimizer.zero_grad()
        return value

    return loop.run(
        "warm-up",
        options,
        len(encoded),
        work,
        [optimizer],
        update,
        lambda: svd_lora.state(branches),
        lambda saved: svd_lora.load_state(branches, saved),
    )


def restore(model_folder, folder, dtype):
    """(model with the warmed-up branches on the device, branches) from a model folder and a warm-up folder."""
    weights.check_model(folder, model_folder)
    settings = read_json(folder / "manifest.json")["settings"]
    model = load.model(model_folder, dtype)
    branches = svd_lora.attach(model, settings["rank"], settings["init"], settings["warmup"]["seed"])
    try:
        svd_lora.load_state(branches, load_file(folder / "probe.safetensors"))
    except (KeyError, RuntimeError, OSError) as error:
        raise UserError(f"{folder}: not a warm-up of {model_folder} ({str(error).splitlines()[0]})") from None
    return model.to(load.device()), branches
