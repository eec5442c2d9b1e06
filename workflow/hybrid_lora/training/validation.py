"""Checkpoint selection: every N steps the loss on held-out verified traces; the lowest is kept (Section 4.3).

Option, not the paper's: the highest mean reward on their prompts. A validation that a stop interrupts is given up; the step's
state is saved, and the validation made when the training goes on from it.
"""

import contextlib
import math
import shutil

import torch
from transformers import TrainerCallback

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import batches, loss
from hybrid_lora.modeling.resuming import seed_all
from hybrid_lora.modeling.sharding import callable_inside, whole_weights
from hybrid_lora.modeling.stopping import Stopped
from hybrid_lora.modeling.trainer import diverged

FORMATS = {"validation_loss": ".4f", "validation_reward": ".4f", "validation_unjudged": "d"}
NAMES = tuple(FORMATS)


class KeepBest(TrainerCallback):
    """Measures the validation loss and keeps the policy with the lowest, or the highest reward, as `work/best-{step}`.

    measure(model, rank, processes): the loss; reward: None, or a function without arguments, then rewards are measured too and
    choose. It gives (mean, answers that could not be judged); a mean of None does not choose. The last step is measured as well.
    `losses`, `rewards` and `unjudged` are {step: value}.
    They stand in the Trainer's log, so a resumed run has those up to its checkpoint; beside the best policy of now, those that
    the checkpoints would resume with are kept. `trainer` must be set before training.
    """

    def __init__(self, work, measure, every, reward=None):
        self.work, self.measure, self.every, self.reward = work, measure, every, reward
        self.losses, self.rewards, self.unjudged, self.trainer = {}, {}, {}, None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Take up what was measured before the checkpoint, and make the validation that was given up for a stop."""
        self.losses, self.rewards, self.unjudged = (_measured(state.log_history, name) for name in NAMES)
        if state.global_step and state.global_step not in self.losses:
            self.on_step_end(args, state, control, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Measure, and save if it is the best so far."""
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        try:
            with self.trainer.stopping.interruptible():
                entry = self._entry(args, step, model)
        except Stopped:
            print(f"validation at step {step} given up; it is made when the training goes on", flush=True)
            control.should_save = control.should_training_stop = True
            return
        for name, values in zip(NAMES, (self.losses, self.rewards, self.unjudged)):
            if name in entry:
                values[step] = entry[name]
        best = self.selected() == step
        shown = ", ".join(f"{name.replace('_', ' ')} {number:{FORMATS[name]}}" for name, number in entry.items())
        if state.is_world_process_zero:
            print(f"{shown} at step {step}" + (" (best so far)" if best else ""), flush=True)
        state.log_history.append({"step": step, "epoch": state.epoch, **entry})
        due = control.should_log
        self.trainer.callback_handler.on_log(args, state, control, dict(entry))  # TensorBoard, W&B
        control.should_log = due  # the step's own log
        if best:
            self._save(model, f"best-{step}")
            self._remove_others(state)

    def _entry(self, args, step, model):
        """The log's entry of a step; all randomness in it comes from the step's number."""
        seed_all(derive(args.seed, "validation", step))
        value = self.measure(model, args.process_index, args.world_size)
        if not math.isfinite(value):
            raise UserError(diverged(f"validation loss is {value}", step, self.work))
        if not self.reward:
            return {"validation_loss": value}
        reward, unjudged = self.reward()
        rewarded = {} if reward is None else {"validation_reward": reward}
        return {"validation_loss": value, **rewarded, "validation_unjudged": unjudged}

    def _save(self, model, name):
        accelerator = self.trainer.accelerator
        whole = whole_weights(accelerator, self.trainer.model_wrapped)
        if accelerator.is_main_process:
            with checkpoints.saving(self.work, name) as folder:
                save_policy(accelerator.unwrap_model(model), folder, whole)
        accelerator.wait_for_everyone()

    def on_save(self, args, state, control, **kwargs):
        """Remove policies that no checkpoint needs any more."""
        self._remove_others(state)

    def _remove_others(self, state):
        if not state.is_world_process_zero:
            return
        steps = [*checkpoints.steps(self.work), state.global_step]
        needed = {_best(*({k: v for k, v in d.items() if k <= step} for d in (self.losses, self.rewards))) for step in steps}
        for folder in self.work.glob("best-*"):
            if folder.name not in {f"best-{step}" for step in needed}:
                shutil.rmtree(folder, ignore_errors=True)

    def folder(self):
        """The best policy, as `save_policy` left it."""
        return self.work / f"best-{self.selected()}"

    def selected(self):
        """The step of the best policy so far."""
        return _best(self.losses, self.rewards)

    def problem(self, checkpoint):
        """Why the best policy that belongs to a checkpoint cannot be used, or None."""
        try:
            history = read_json(checkpoint / "trainer_state.json")["log_history"]
            best = _best(*(_measured(history, name) for name in NAMES[:2]))
        except (UserError, KeyError, TypeError) as error:
            return f"trainer_state.json: {type(error).__name__}: {error}"
        reason = best is not None and checkpoints.problem(self.work / f"best-{best}")
        return f"its best policy, best-{best}: {reason}" if reason else None


class NextTokenLoss:
    """Mean negative log-likelihood per target token (nats) over validation rows, which processes share.

    encoded: list of (ids, length of the prompt); autocast: compute in bf16. Every process makes as many forward passes, as
    sharded models need; those beyond the rows do not count.
    """

    def __init__(self, encoded, pad_id, batch_size, autocast):
        self.encoded, self.pad_id, self.batch_size, self.autocast = encoded, pad_id, batch_size, autocast

    @torch.no_grad()
    def __call__(self, model, rank=0, processes=1):
        """The loss of `model`, the same on every process."""
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        context = torch.autocast(device.type, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        starts = range(0, len(self.encoded), self.batch_size)
        total = tokens = 0
        for position in range(rank, -(-len(starts) // processes) * processes, processes):
            start = starts[position % len(starts)]
            batch = batches.collate(self.encoded[start : start + self.batch_size], self.pad_id, device)
            with context, callable_inside(model):
                value, count = loss.next_token_loss(model, batch)
            if position < len(starts):
                total, tokens = total + value.item() * count, tokens + count
        model.train(was_training)
        if processes > 1:
            both = torch.tensor([total, tokens], dtype=torch.float64, device=device)
            torch.distributed.all_reduce(both)
            total, tokens = both.tolist()
        return total / max(tokens, 1)


def _measured(history, name):
    return {entry["step"]: entry[name] for entry in history if name in entry}


def _best(losses, rewards):
    """The step of the highest reward if there are any, else of the lowest loss, the first of equals; None without either."""
    if rewards:
        return max(rewards, key=rewards.get)
    return min(losses, key=losses.get, default=None)


def save_policy(model, folder, state=None):
    """A standard PEFT adapter folder, or a plain model folder where every parameter is trained.

    state: the weights of a model that is sharded, None for those it has.
    """
    weights = {} if state is None else {"state_dict": state}
    if hasattr(model, "peft_config"):
        # Embeddings are never adapted; "auto" would look the base model up on the hub.
        model.save_pretrained(folder, save_embedding_layers=False, **weights)
    else:
        model.save_pretrained(folder, **weights)
