"""Per-batch sensitivities (Algorithm 1, Eq. 10-12): two masked backward passes per validation batch.

The dump holds e and its gradient per batch, module and component; all scores are aggregations of it. Batch t depends on
(model, warm-up state, rows of batch t, seed, t) alone, so chunks can be computed anywhere and K can grow. A chunk is
always computed whole; the scores stage reads the first K batches.
"""

import math

import pyarrow as pa
import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_file
from hybrid_lora.common.progress import Progress
from hybrid_lora.contracts import corpus, sensitivity
from hybrid_lora.modeling import batches, load, loss, svd_lora
from hybrid_lora.probe import partition, warmup


def run(settings, model_folder, warm, val, chunk, out):
    """settings: the `sensitivity` section of config `probes`, less `partitions`; chunk counts from 0."""
    first = chunk * settings["batches_per_chunk"]
    numbers = range(first, first + settings["batches_per_chunk"])
    words = load.tokenizer(model_folder)
    rows = sorted(corpus.read(val), key=lambda row: row["id"])
    needed = numbers.stop * settings["batch_size"]
    if len(rows) < needed:
        raise UserError(
            f"{val}: {len(rows)} rows; batches up to {numbers.stop} of {settings['batch_size']} need {needed} "
            f"(raise corpora.*.validation_rows, or lower probes.*.sensitivity.partitions or batch_size)"
        )
    model, branches = warmup.restore(model_folder, warm, settings["dtype"])
    model.eval()
    progress = Progress(f"sensitivity chunk {chunk}", len(numbers))
    tables = []
    for t in numbers:
        chosen = rows[t * settings["batch_size"] : (t + 1) * settings["batch_size"]]
        encoded = [batches.encode(words, row["messages"], settings["max_length"]) for row in chosen]
        if all(prompt >= len(ids) for ids, prompt in encoded):
            raise UserError(f"{val}: batch {t} has no target token within max_length {settings['max_length']}")
        batch = batches.collate(encoded, words.pad_token_id, load.device())
        bucket = partition.bucket_a(list(branches), settings["seed"], t, settings["probability"])
        tables.append(_table(t, branches, bucket, *measure(model, branches, batch, bucket)))
        progress.step(loss_a=tables[-1]["loss_a"][0].as_py())
    about = {"warmup_sha256": sha256_file(warm / "probe.safetensors"), "settings": settings, "chunk": chunk}
    sensitivity.write(out, pa.concat_tables(tables), about)
    inputs = {"model": model_folder / "manifest.json", "warmup": warm / "manifest.json", "val": val}
    manifest.write_beside(out, "probe.sensitivity", settings, inputs, code.sources("hybrid_lora.probe.sensitivity"))


def measure(model, branches, batch, bucket):
    """(gradients {name: [r] float32 tensor}, loss_a, loss_b, target tokens) of one batch under one partition.

    Pass A disables the modules of `bucket` (U_A), pass B all others. Gradients of both passes add up (Eq. 11); a module
    is active in exactly one, so its gradient comes from that pass alone.
    """
    names = set(branches)
    parameters = [branch.e for branch in branches.values()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # A, B and alpha need no gradient here: a third of the backward pass saved
    for e in parameters:
        e.requires_grad_(True)
        e.grad = None
    losses = []
    for active in (names - bucket, bucket):
        svd_lora.set_active(branches, active)
        value, tokens = loss.next_token_loss(model, batch)
        if value.requires_grad:  # with a one-sided partition one pass has no active module at all
            value.backward()
        losses.append(value.item())
    svd_lora.set_active(branches, names)
    return {name: branch.e.grad.float().cpu() for name, branch in branches.items()}, *losses, tokens


def _table(t, branches, bucket, gradients, loss_a, loss_b, tokens):
    if not (math.isfinite(loss_a) and math.isfinite(loss_b)):
        raise UserError(f"validation batch {t}: loss is {loss_a} (pass A), {loss_b} (pass B); the probe has diverged")
    parts = []
    for name, branch in branches.items():
        grad = gradients[name]
        if not torch.isfinite(grad).all():
            raise UserError(f"validation batch {t}: the gradient of e of module {name} is not finite")
        rank = len(grad)
        parts.append(
            pa.table(
                {
                    "batch": pa.array([t] * rank, pa.int32()),
                    "module": pa.array([name] * rank),
                    "layer": pa.array([branch.candidate.layer] * rank, pa.int32()),
                    "type": pa.array([branch.candidate.type] * rank),
                    "component": pa.array(range(rank), pa.int32()),
                    "active_pass": pa.array(["B" if name in bucket else "A"] * rank),
                    "e": pa.array(branch.e.detach().float().cpu().numpy()),
                    "grad": pa.array(grad.numpy()),
                    "loss_a": pa.array([loss_a] * rank),
                    "loss_b": pa.array([loss_b] * rank),
                    "tokens": pa.array([tokens] * rank, pa.int64()),
                }
            )
        )
    return pa.concat_tables(parts)
