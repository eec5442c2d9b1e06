"""What every Hugging Face Trainer of ours shares: quiet arguments, progress lines with an ETA, a record per step."""

import math
import time

import torch
from transformers import PrinterCallback, TrainerCallback

from hybrid_lora.common import checkpoints, ranks
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.modeling import load

# Every step must be in the record, but printing each is our callback's business, not the Trainer's. Several processes: every
# trained weight is used in every pass, and need not be looked for.
QUIET = {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "logging_nan_inf_filter": False}
QUIET |= {"ddp_find_unused_parameters": False}


def recomputation():
    """`gradient_checkpointing_kwargs`: how activations are recomputed.

    Reentrant checkpointing makes no graph in the first pass and saves a GPU from waiting for the CPU; it does not go with
    several processes. The numbers are the same.
    """
    return {"use_reentrant": torch.cuda.is_available() and ranks.count() == 1}


def common(settings, seed, work):
    """TrainingArguments that SFT and RL have alike. settings: one entry of config `objectives`; work: folder of checkpoints."""
    return {
        "output_dir": str(work),
        "max_steps": settings["steps"],
        "per_device_train_batch_size": settings["device_batch_size"],
        "learning_rate": settings["learning_rate"]["full"],
        "lr_scheduler_type": settings["schedule"],
        "warmup_steps": settings["warmup_steps"],
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "bf16": settings["precision"] == "bf16",
        "use_cpu": load.device().type == "cpu",  # without it bf16 asks for a GPU
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": recomputation(),
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": settings["save_every"],
    }


def on_one_gpu(arguments):
    """TrainingArguments of a process that uses one GPU: the Trainer would copy the model to all it sees (DataParallel)."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def share(batch, unit, what, of_what):
    """This process's part of a batch given over all processes; UserError if all of them cannot have a multiple of `unit`."""
    processes = ranks.count()
    if processes > 1 and batch % (unit * processes):
        by = f"{of_what} * {processes} processes"
        raise UserError(f"objectives.*: {what} is {batch}, must be a multiple of {by}, {unit * processes}")
    return batch // processes


def diverged(found, step, work):
    """What to say of a number that is not finite; found: which one; work: folder of checkpoints."""
    last = checkpoints.steps(work)[-1:]
    kept = [f"the last good state is kept in {work}/{checkpoints.PREFIX}{number}" for number in last]
    kept = kept[0] if kept else "no state was saved before it"
    return f"{found} at step {step}; lower the learning rate or check the data; {kept}"


class Record(TrainerCallback):
    """Keeps what the Trainer logs, one dict per optimizer step, and prints progress.

    Stops, naming the step, at a loss or a gradient that is not finite; weights that are not are never saved (`resuming`).
    `records` survive a resume: they are rebuilt from the Trainer's own log history, elapsed seconds included.
    """

    def __init__(self, what, show=("loss", "reward", "kl")):
        self.what, self.show = what, show
        self.records, self.elapsed_before, self.began, self.progress = {}, 0.0, None, None

    @staticmethod
    def quiet(trainer):
        """Take away the Trainer's own print of every step."""
        trainer.remove_callback(PrinterCallback)
        return trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock; rebuild earlier records after a resume."""
        for entry in state.log_history:
            self._keep(entry)
        self.elapsed_before = max((r["elapsed_s"] for r in self.records.values()), default=0.0)
        self.began = time.monotonic()
        self.progress = Progress(self.what, state.max_steps, start=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Record one step's log entry and print it now and then."""
        if "loss" not in logs:  # the Trainer's summary at the end, of this process alone
            return
        elapsed = round(self.elapsed_before + time.monotonic() - self.began, 3)
        state.log_history[-1]["elapsed_s"] = elapsed  # so that it is in the checkpoint
        self._keep(state.log_history[-1])
        for key in ("loss", "grad_norm"):
            if not math.isfinite(float(logs.get(key) or 0)):
                self._stop(f"{key} is {logs[key]}", args, state)
        shown = {k: float(logs[k]) for k in self.show if logs.get(k) is not None}  # no reward where no grader gave one
        if state.is_world_process_zero:
            self.progress.step(state.global_step - self.progress.done, **shown)

    def _stop(self, found, args, state):
        raise UserError(f"{self.what}: {diverged(found, state.global_step, args.output_dir)}")

    def _keep(self, entry):
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and k not in ("step", "epoch")}
        record = self.records.setdefault(int(entry["step"]), {"step": int(entry["step"]), "elapsed_s": 0.0})
        record.update(numbers)

    def history(self):
        """The records in order of steps."""
        return [self.records[step] for step in sorted(self.records)]
