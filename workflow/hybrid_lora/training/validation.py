"""Checkpoint selection: every N steps the loss on held-out verified traces; the lowest is kept (Section 4.3)."""

import contextlib
import math
import shutil

import torch
from transformers import TrainerCallback

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json
from hybrid_lora.modeling import batches, loss


class KeepBest(TrainerCallback):
    """Measures the validation loss (nats per target token) and keeps the policy with the lowest in `folder`.

    The last step is measured too. `losses` is {step: loss}; it survives a resume, with the folder.
    """

    def __init__(self, folder, encoded, pad_id, every, batch_size, autocast):
        self.folder, self.encoded, self.pad_id = folder, encoded, pad_id
        self.every, self.batch_size, self.autocast = every, batch_size, autocast
        path = folder.with_suffix(".json")
        self.losses = {int(k): v for k, v in read_json(path).items()} if path.exists() else {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Measure, and save if it is the lowest so far."""
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        # A step seen before the kill is measured again; steps after the checkpoint are forgotten.
        self.losses = {k: v for k, v in self.losses.items() if k < step}
        value = self.measure(model)
        if not math.isfinite(value):
            raise UserError(f"validation loss is {value} at step {step}; try a lower learning rate")
        best = min(self.losses.values(), default=float("inf"))
        self.losses[step] = value
        print(f"validation loss {value:.4f} at step {step}" + (" (lowest so far)" if value < best else ""), flush=True)
        if value < best:
            temporary = self.folder.with_suffix(".new")
            shutil.rmtree(temporary, ignore_errors=True)
            save_policy(model, temporary)
            shutil.rmtree(self.folder, ignore_errors=True)
            temporary.rename(self.folder)
        write_json(self.folder.with_suffix(".json"), self.losses)

    @torch.no_grad()
    def measure(self, model):
        """Mean negative log-likelihood per target token over all validation rows."""
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        context = torch.autocast(device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        total = tokens = 0
        for start in range(0, len(self.encoded), self.batch_size):
            batch = batches.collate(self.encoded[start : start + self.batch_size], self.pad_id, device)
            with context:
                value, count = loss.next_token_loss(model, batch)
            total, tokens = total + value.item() * count, tokens + count
        model.train(was_training)
        return total / max(tokens, 1)


def save_policy(model, folder):
    """A standard PEFT adapter folder, or a plain model folder where every parameter is trained."""
    if hasattr(model, "peft_config"):
        # Embeddings are never adapted; "auto" would look the base model up on the hub.
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
