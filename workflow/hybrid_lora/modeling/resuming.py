"""Exact resume for any Hugging Face Trainer: a run that was killed ends with the bits of one that was not.

- Random numbers of a step come from (seed, step, process) alone, not from state carried along.
- The order of the data is laid out by who builds the data set; the Trainer skips what was done.
- Checkpoints are whole or not there and have hashes (`common.checkpoints`); one that cannot be read is passed over.
- TRL samples completions for several steps at once and forgets them in a checkpoint, after which its windows of steps are
  out of place. Ours holds them where it is saved inside a window, so a run resumes exactly wherever it was saved.
- The number of tokens seen, which SFTTrainer forgets as well, is taken from the log.
"""

import random
from pathlib import Path

import numpy
import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerState

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling import trainer as trainers
from hybrid_lora.modeling.sharding import sharded
from hybrid_lora.modeling.stopping import Stopped, Stopping

# Files of a checkpoint, one of each process: completions, and the parts that FSDP2 and ZeRO-3 divide weights into.
OF_EACH_PROCESS = ("window-*.pt", "pytorch_model_fsdp_0/*.distcp", "global_step*/*_optim_states.pt")
BYTES_PER_S = 500e6  # of a disk, hashing included, until a save was timed


def seed_all(seed):
    """Seed python, numpy and torch, which a vLLM in this process draws from as well."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class StepStart(TrainerCallback):
    """Seeds python, numpy and torch anew at each step: dropout, sampling (also of a vLLM in this process), shuffles.

    seed: of the training; share: number of consecutive processes that must draw alike (tensor parallel sampling).
    """

    def __init__(self, seed, share=1):
        self.seed, self.share, self.tokens = seed, share, 0

    def on_step_begin(self, args, state, control, **kwargs):
        """Before the step's first batch."""
        seed_all(derive(self.seed, "step", state.global_step, args.process_index // self.share))
        self.tokens = state.num_input_tokens_seen

    def rewind(self, trainer):
        """Take back what a step that was given up has counted already."""
        trainer.state.num_input_tokens_seen, trainer.current_flos = self.tokens, 0


class ExactResume:
    """Trainer mixin, first of the bases: checkpoints that are safe, of which the configuration's `checkpoints.keep` are kept."""

    saved_step, stopping = None, None
    _run_dir = None

    def _save_checkpoint(self, model, trial):
        work, name = Path(self.args.output_dir), f"{checkpoints.PREFIX}{self.state.global_step}"
        if not all(p.isfinite().all() for p in self.model.parameters() if p.requires_grad):
            raise UserError(trainers.diverged("a weight is not finite", self.state.global_step, work))
        with checkpoints.guarded(work, name):
            if self.accelerator.is_main_process:
                checkpoints.prepare(work, name)
            self.accelerator.wait_for_everyone()
            folder = work / checkpoints.SAVING / name
            self._run_dir = str(folder.parent)
            try:
                super()._save_checkpoint(model, trial)
                self._save_window(folder)
            finally:
                self._run_dir = None
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                checkpoints.commit(folder)
                checkpoints.remove_others(work, self.state.global_step, checkpoints.options()["keep"])
            self.accelerator.wait_for_everyone()
        self.saved_step = self.state.global_step

    def _get_output_dir(self, trial):
        return self._run_dir or super()._get_output_dir(trial)

    def create_model_card(self, *args, **kwargs):
        """TRL writes one with every checkpoint; ours comes with the policy."""

    def _window_file(self, folder):
        return Path(folder) / f"window-{self.args.process_index}.pt"

    def _save_window(self, folder):
        """Inside a window of steps that share completions: these, and what TRL shows of them."""
        if not hasattr(self, "_buffered_inputs"):
            return
        window = self.args.steps_per_generation * self.num_iterations
        if self.state.global_step * self.args.gradient_accumulation_steps % window:
            logs = {name: _plain(value) for name, value in self._logs.items() if name != "images"}
            torch.save({"inputs": self._buffered_inputs, "logs": logs}, self._window_file(folder))

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        seen = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
        if seen and hasattr(self, "_total_train_tokens"):
            self._total_train_tokens = int(seen[-1])
        if hasattr(self, "_buffered_inputs"):
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
            if self._window_file(checkpoint).exists():
                saved = torch.load(self._window_file(checkpoint), map_location=self.args.device, weights_only=True)
                self._buffered_inputs = saved["inputs"]
                _refill(self._logs, saved["logs"])


def train(trainer, what, also=lambda folder: None):
    """Train from the newest usable checkpoint in args.output_dir to the end; Interrupted, with the state saved, if stopped.

    what: the training in words; also(checkpoint): a further reason why a checkpoint cannot be used, or None.
    """
    args = trainer.args
    colocated = getattr(args, "use_vllm", False) and args.vllm_mode == "colocate"
    point = _resume_point(trainer, what, also)
    done = int(point.name.removeprefix(checkpoints.PREFIX)) if point else 0
    start = StepStart(args.seed, args.vllm_tensor_parallel_size if colocated else 1)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    with Stopping(args.world_size == 1, checkpoints.size_bytes(trainable) / BYTES_PER_S) as stopping:
        trainer.stopping = stopping
        for callback in (start, stopping):
            trainer.add_callback(callback)
        try:
            _train(trainer, point, done)
        except Stopped:
            if trainer.state.global_step > max(done, trainer.saved_step or 0):
                start.rewind(trainer)
                trainer._save_checkpoint(trainer.model, None)
                trainer.callback_handler.on_save(args, trainer.state, trainer.control)
        if stopping.reason:
            raise stopping.interrupted(what, max(done, trainer.saved_step or 0), done)


def _train(trainer, point, done):
    if done < trainer.args.max_steps:
        trainer.train(resume_from_checkpoint=str(point) if point else None)
        return
    # Killed after its last step: the Trainer would make one more.
    trainer.state = TrainerState.load_from_json(str(point / "trainer_state.json"))
    if not sharded(trainer.accelerator):  # whose weights are in parts, and who publishes a policy takes the best one's folder
        trainer._load_from_checkpoint(str(point))
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)


def _resume_point(trainer, what, also):
    """The newest usable checkpoint as a Path, or None; one process looks, all get its answer."""
    found = [_found(trainer, what, also) if trainer.args.process_index == 0 else None]
    return broadcast_object_list(found)[0] if trainer.args.world_size > 1 else found[0]


def _found(trainer, what, also):
    """UserError where the only good checkpoints are of other processes: such processes can go on with them."""
    args, good = trainer.args, []

    def other(folder):
        reason = _of_other_processes(folder, args.world_size, _strategy(trainer))
        if reason:
            good.append(f"{folder}: {reason}")
        return reason or also(folder)

    newest = checkpoints.newest(args.output_dir, what, other)
    if good and newest is None:
        raise UserError(f"{good[0]}; with compute.* as it was the training goes on, without {args.output_dir} it starts anew")
    return newest


def _strategy(trainer):
    return "zero3" if trainer.is_deepspeed_enabled else "fsdp2" if trainer.is_fsdp_enabled else "ddp"


def _of_other_processes(folder, processes, strategy):
    """Why a checkpoint is of no use to so many processes, or None: each has completions, or a part of the weights, of its own."""
    parts = {"fsdp2": "pytorch_model_fsdp_0", "zero3": "global_step*"}
    kind = next((name for name, part in parts.items() if any(folder.glob(part))), "ddp")  # one process has copies, too
    saved = max(len(list(folder.glob(name))) for name in OF_EACH_PROCESS)
    if kind != strategy:
        return f"saved with compute.strategy {kind}, now it is {strategy}"
    return f"saved by {saved} processes, now there are {processes}" if saved not in (0, processes) else None


def _plain(value):
    """Dicts and deques as dicts and lists."""
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else list(value)


def _refill(target, value):
    """Undo `_plain`, into what is there."""
    for key, inner in value.items():
        _refill(target[key], inner) if isinstance(inner, dict) else target[key].extend(inner)
