"""Checkpoint selection: every N steps the loss on held-out verified traces; the lowest is kept (Section 4.3)."""

import contextlib
import math
import shutil

import torch
from transformers import TrainerCallback

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.modeling import batches, loss


class KeepBest(TrainerCallback):
    """Measures the validation loss (nats per target token) and keeps the policy with the lowest as `work/best-{step}`.

    The last step is measured too. `losses` is {step: loss}. They stand in the Trainer's log, so a resumed run has those up to
    its checkpoint; beside the best policy of now, those that the checkpoints would resume with are kept.
    """

    def __init__(self, work, encoded, pad_id, every, batch_size, autocast):
        self.work, self.encoded, self.pad_id = work, encoded, pad_id
        self.every, self.batch_size, self.autocast = every, batch_size, autocast
        self.losses = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up what was measured before the checkpoint."""
        self.losses = _measured(state.log_history)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Measure, and save if it is the lowest so far."""
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        value = self.measure(model)
        if not math.isfinite(value):
            raise UserError(f"validation loss is {value} at step {step}; try a lower learning rate")
        best = min(self.losses.values(), default=float("inf"))
        self.losses[step] = value
        print(f"validation loss {value:.4f} at step {step}" + (" (lowest so far)" if value < best else ""), flush=True)
        state.log_history.append({"step": step, "epoch": state.epoch, "validation_loss": value})
        if value < best:
            with checkpoints.saving(self.work, f"best-{step}") as folder:
                save_policy(model, folder)

    def on_save(self, args, state, control, **kwargs):
        """Remove policies that no checkpoint needs any more."""
        steps = [*checkpoints.steps(self.work), state.global_step]
        needed = {_lowest({k: v for k, v in self.losses.items() if k <= step}) for step in steps}
        for folder in self.work.glob("best-*"):
            if folder.name not in {f"best-{step}" for step in needed}:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self):
        """The policy with the lowest loss, as `save_policy` left it."""
        return self.work / f"best-{_lowest(self.losses)}"

    def problem(self, checkpoint):
        """Why the best policy that belongs to a checkpoint cannot be used, or None."""
        best = _lowest(_measured(read_json(checkpoint / "trainer_state.json")["log_history"]))
        reason = best is not None and checkpoints.problem(self.work / f"best-{best}")
        return f"its best policy, best-{best}: {reason}" if reason else None

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


def _measured(history):
    return {entry["step"]: entry["validation_loss"] for entry in history if "validation_loss" in entry}


def _lowest(losses):
    """The step of the lowest loss, the first of equals; None where there is none."""
    return min(losses, key=losses.get, default=None)


def save_policy(model, folder):
    """A standard PEFT adapter folder, or a plain model folder where every parameter is trained."""
    if hasattr(model, "peft_config"):
        # Embeddings are never adapted; "auto" would look the base model up on the hub.
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
