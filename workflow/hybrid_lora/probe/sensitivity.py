"""Per-batch sensitivities (Algorithm 1, Eq. 10-12): two masked backward passes per validation batch.

The dump holds e and its gradient per batch, module and component; all scores are aggregations of it. Batch t depends on
(model, warm-up state, rows of batch t, seed, t) alone, so chunks can be computed anywhere and K can grow.
"""

import math

import numpy as np
import pyarrow as pa
import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import sensitivity
from hybrid_lora.contracts.weights import sha256 as weights_sha256
from hybrid_lora.modeling import batches, load, loss
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import chunks, partition, warmup

ENTRY = "hybrid_lora.probe.sensitivity"


def run(settings, model_folder, warm, val, chunk, out, state):
    """settings: the `sensitivity` section of config `probes`, less `partitions`; chunk counts from 0."""
    wanted = chunks.numbers(settings, chunk)
    inputs = {"model": model_folder / "manifest.json", "warmup": warm / "manifest.json", "val": val}
    rows = chunks.validation_rows(val, settings, wanted[-1], "probes.*.sensitivity.partitions")
    work = open_state(state, [settings, chunk], inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    model, branches = warmup.restore(model_folder, warm, settings["dtype"])
    model.eval()
    load.set_checkpointing(model, settings["gradient_checkpointing"])

    with chunks.deterministic(), measuring(model, branches) as halves:

        def one(t):
            batch = chunks.batch_of(rows, t, words, settings, val)
            bucket = partition.bucket_a(list(branches), settings["seed"], t, settings["probability"])
            finish = launch(model, batch, bucket, halves)
            return lambda: _table(t, branches, bucket, *finish())

        table = chunks.collect(f"sensitivity chunk {chunk}", wanted, work, sensitivity.SCHEMA, one, "loss_a")
    about = {"model": chunks.identity(model_folder), "warmup_sha256": weights_sha256(warm)}
    sensitivity.write(out, table, {**about, "settings": settings, "chunk": chunk})
    manifest.write_beside(out, "probe.sensitivity", settings, inputs, code.sources(ENTRY))
    close_state(work)


def launch(model, batch, bucket, halves):
    """Start one batch under one partition; returns a function that waits for its result.

    The result: (gradients of e {name: [r]} on the CPU, loss_a, loss_b, target tokens). Pass A disables the modules of
    `bucket` (U_A), pass B all others; they run side by side as the halves of a doubled batch. Gradients of both passes
    add up (Eq. 11); a module is active in exactly one half, so its gradient comes from that pass alone. halves: what
    `measuring` yields. A GPU goes on with the next batch while the last one's result is waited for.
    """
    halves.split(bucket)
    losses, tokens = loss.next_token_losses(model, batches.doubled(batch), 2)
    sum(losses).backward()
    together, losses = (load.later(tensor) for tensor in (halves.gradients(), torch.stack(losses).detach()))

    def finish():
        return dict(zip(halves.branches, together())), *losses().tolist(), tokens

    return finish


def _table(t, branches, bucket, gradients, loss_a, loss_b, tokens):
    if not (math.isfinite(loss_a) and math.isfinite(loss_b)):
        raise UserError(f"validation batch {t}: loss is {loss_a} (pass A), {loss_b} (pass B); the probe has diverged")
    wrong = next((name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()), None)
    if wrong:
        raise UserError(f"validation batch {t}: the gradient of e of module {wrong} is not finite")
    rank = len(next(iter(gradients.values())))
    candidates = [branch.candidate for branch in branches.values()]
    count = rank * len(candidates)
    e = torch.stack([branch.e.detach() for branch in branches.values()]).float().cpu()
    columns = {
        "batch": np.full(count, t, np.int32),
        "module": np.repeat(np.array([c.module for c in candidates], object), rank),
        "layer": np.repeat(np.array([c.layer for c in candidates], np.int32), rank),
        "type": np.repeat(np.array([c.type for c in candidates], object), rank),
        "component": np.tile(np.arange(rank, dtype=np.int32), len(candidates)),
        "active_pass": np.repeat(np.array(["B" if c.module in bucket else "A" for c in candidates], object), rank),
        "e": e.numpy().reshape(-1),
        "grad": torch.stack(list(gradients.values())).float().numpy().reshape(-1),
        "loss_a": np.full(count, loss_a),
        "loss_b": np.full(count, loss_b),
        "tokens": np.full(count, tokens, np.int64),
    }
    return pa.table(columns, schema=sensitivity.SCHEMA)
