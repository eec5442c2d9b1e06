"""Exact perturbation (Eq. 9): the change of the validation loss when one module's LoRA branch is disabled.

P(l, m) = L(without the branch of (l, m)) - L(all branches), 1 + 7 L forward passes a batch: what the Hybrid-Score
approximates. Batches are those of the sensitivities if both sections name the same size.
"""

import math

import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import measurements
from hybrid_lora.contracts.weights import sha256 as weights_sha256
from hybrid_lora.modeling import load, loss, svd_lora
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import chunks, warmup

ENTRY = "hybrid_lora.probe.perturbation"


def run(settings, model_folder, warm, val, chunk, out, state):
    """settings: the `perturbation` section of config `probes`, less `batches`; chunk counts from 0."""
    wanted = chunks.numbers(settings, chunk)
    inputs = {"model": model_folder / "manifest.json", "warmup": warm / "manifest.json", "val": val}
    rows = chunks.validation_rows(val, settings, wanted[-1], "probes.*.perturbation.batches")
    work = open_state(state, [settings, chunk], inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    model, branches = warmup.restore(model_folder, warm, settings["dtype"])
    model.eval()

    def one(t):
        progress = Progress(f"perturbation batch {t}", 1 + len(branches))
        batch = chunks.batch_of(rows, t, words, settings, val)
        found = measure(model, branches, batch, progress)
        _check_finite(t, branches, found[0], found[1])
        return lambda: measurements.table(t, _candidates(branches), *found)

    with chunks.deterministic(), measuring(model, branches):
        table = chunks.collect(f"perturbation chunk {chunk}", wanted, work, measurements.SCHEMA, one, "loss")
    about = {"model": chunks.identity(model_folder), "warmup_sha256": weights_sha256(warm)}
    measurements.write(out, table, {"kind": "perturbation", **about, "settings": settings, "chunk": chunk})
    manifest.write_beside(out, "probe.perturbation", settings, inputs, code.sources(ENTRY))
    close_state(work)


def _candidates(branches):
    return [branch.candidate for branch in branches.values()]


@torch.inference_mode()
def measure(model, branches, batch, progress=None):
    """([P(l, m) in the order of `branches`], loss with all branches, target tokens). Call it within `measuring`."""
    names, losses = set(branches), []
    for without in (None, *branches):
        svd_lora.set_active(branches, names - {without})
        value, tokens = loss.next_token_loss(model, batch)
        losses.append(value)  # read at the end: asking a GPU for each would wait for it
        if progress:
            progress.step()
    svd_lora.set_active(branches, names)
    losses = torch.stack(losses).tolist()
    return [value - losses[0] for value in losses[1:]], losses[0], tokens


def _check_finite(t, branches, values, whole):
    if not math.isfinite(whole):
        raise UserError(f"validation batch {t}: loss with all branches is {whole}; the probe has diverged")
    wrong = next((name for name, value in zip(branches, values, strict=True) if not math.isfinite(value)), None)
    if wrong:
        raise UserError(f"validation batch {t}: loss without the branch of module {wrong} is not finite")
