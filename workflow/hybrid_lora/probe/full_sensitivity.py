"""Sensitivities of full fine-tuning (hybrid-4): mean |w * grad w| over a module's weights, one plain backward pass a batch.

The paper does not write the score out; this is Eq. 12 with the module's own weights (bias included) in place of e, and
without masks, as there are no branches to switch off.
"""

import contextlib
import math

import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import measurements, weights
from hybrid_lora.modeling import candidates, load, loss
from hybrid_lora.probe import chunks

ENTRY = "hybrid_lora.probe.full_sensitivity"


def run(settings, model_folder, warm, val, chunk, out, state):
    """settings: the `sensitivity` section of config `probes`, less what concerns masks; warm: folder of `full-warmup`."""
    wanted = chunks.numbers(settings, chunk)
    inputs = {"model": model_folder / "manifest.json", "warmup": warm / "manifest.json", "val": val}
    weights.check_model(warm, model_folder)
    rows = chunks.validation_rows(val, settings, wanted[-1], "probes.*.sensitivity.partitions")
    work = open_state(state, [settings, chunk], inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    model = load.model(warm, "float32").to(load.device()).eval()
    load.set_checkpointing(model, settings["gradient_checkpointing"])
    listed = candidates.find(model)

    def one(t):
        batch = chunks.batch_of(rows, t, words, settings, val)
        found = measure(model, listed, batch, settings["dtype"] == "bfloat16")
        _check_finite(t, listed, found[0], found[1])
        return lambda: measurements.table(t, listed, *found)

    with chunks.deterministic():
        table = chunks.collect(f"full sensitivity chunk {chunk}", wanted, work, measurements.SCHEMA, one, "loss")
    about = {"model": chunks.identity(model_folder), "warmup_sha256": weights.sha256(warm)}
    measurements.write(out, table, {"kind": "full-sensitivity", **about, "settings": settings, "chunk": chunk})
    manifest.write_beside(out, "probe.full_sensitivity", settings, inputs, code.sources(ENTRY))
    close_state(work)


def measure(model, listed, batch, autocast=False):
    """([mean |w * grad w| in the order of the candidates `listed`], loss, target tokens).

    Gradients are dropped as soon as they are used: never more than one module's is kept.
    """
    sums = {}

    def hook(name):
        def add(parameter):
            product = (parameter.detach() * parameter.grad).abs().sum(dtype=torch.float64)
            sums[name] = sums.get(name, 0.0) + product.item()
            parameter.grad = None

        return add

    model.requires_grad_(False)
    handles = []
    for candidate in listed:
        for parameter in model.get_submodule(candidate.module).parameters():
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(hook(candidate.module)))
    device = batch["input_ids"].device
    with torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
        value, tokens = loss.next_token_loss(model, batch)
    value.backward()
    for handle in handles:
        handle.remove()
    return [sums[c.module] / c.params for c in listed], value.item(), tokens


def _check_finite(t, listed, values, loss_value):
    if not math.isfinite(loss_value):
        raise UserError(f"validation batch {t}: loss is {loss_value}; the full warm-up has diverged")
    for candidate, value in zip(listed, values, strict=True):
        if not math.isfinite(value):
            raise UserError(f"validation batch {t}: the gradient of module {candidate.module} is not finite")
