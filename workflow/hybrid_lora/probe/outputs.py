"""Output energy of the LoRA branches (LoRA-drop): sum over tokens of ||alpha x A diag(e) B||^2 on sampled training rows.

LoRA-drop's authors warm LoRA up, run a sample of the training data through it and rank by g = sum ||dW x||^2. The
warm-up here is the probe's (Eq. 7), so that criteria differ in what they read off, not in what they were trained on.
"""

import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import corpus, measurements
from hybrid_lora.contracts.weights import sha256 as weights_sha256
from hybrid_lora.modeling import load, loss
from hybrid_lora.probe import chunks, warmup

ENTRY = "hybrid_lora.probe.outputs"


def run(settings, model_folder, warm, train, out, state):
    """settings: the `lora_drop` section of config `probes`."""
    inputs = {"model": model_folder / "manifest.json", "warmup": warm / "manifest.json", "train": train}
    rows = sample(train, settings)
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    model, branches = warmup.restore(model_folder, warm, settings["dtype"])
    model.eval()
    candidates = [branch.candidate for branch in branches.values()]

    def one(t):
        found = measure(model, branches, chunks.batch_of(rows, t, words, settings, train))
        return lambda: measurements.table(t, candidates, *found)

    with chunks.deterministic():
        table = chunks.collect("outputs", range(settings["batches"]), work, measurements.SCHEMA, one, "loss")
    about = {"model": chunks.identity(model_folder), "warmup_sha256": weights_sha256(warm)}
    measurements.write(out, table, {"kind": "outputs", **about, "settings": settings})
    manifest.write_beside(out, "probe.outputs", settings, inputs, code.sources(ENTRY))
    close_state(work)


def sample(train, settings):
    """Training rows of all batches, drawn without replacement from the seed; more batches leave the first ones as they are."""
    needed, total = settings["batches"] * settings["batch_size"], corpus.count(train)
    if total < needed:
        raise UserError(f"{train}: {total} rows; probes.*.lora_drop.batches * batch_size needs {needed}")
    generator = torch.Generator().manual_seed(derive(settings["seed"], "lora-drop-sample"))
    chosen = torch.randperm(total, generator=generator)[:needed].tolist()
    rows = corpus.pick(train, ("messages",), chosen)
    return [rows[i] for i in chosen]


@torch.inference_mode()
def measure(model, branches, batch):
    """([energy in the order of `branches`], loss, target tokens); padding counts for nothing."""
    energies, handles = {}, []
    keep = batch["attention_mask"].bool()

    def hook(name):
        def add(branch, inputs, output):
            # ||(x A diag(scale)) B||^2 = h (B B^T) h^T: the wide output is not made again
            h_TR = (inputs[0][keep].float() @ branch.A.float()) * (branch.alpha * branch.e).float()
            gram_RR = branch.B.float() @ branch.B.float().T
            energies[name] = ((h_TR @ gram_RR) * h_TR).sum(dtype=torch.float64).item()

        return add

    for name, branch in branches.items():
        handles.append(branch.register_forward_hook(hook(name)))
    try:
        value, tokens = loss.next_token_loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return [energies[name] for name in branches], value.item(), tokens
