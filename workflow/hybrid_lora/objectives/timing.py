"""Where a step of GRPO spends its time (sampling, rewards, log-probabilities of fixed policies, update, weights to vLLM), and
how much memory a step of any Trainer takes."""

import contextlib
import time
from collections import defaultdict

import torch
from transformers import TrainerCallback

from hybrid_lora.common import manifest

PARTS = ("generate", "reward", "log_probs", "update", "sync")


class Weighed:
    """Trainer mixin: every logged step gets `memory_gib`, the GPU's peak since the step before; on a CPU the process's so far."""

    def log(self, logs, *arguments, **keywords):
        """Add the memory."""
        if "loss" in logs and torch.cuda.is_available():
            logs["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            torch.cuda.reset_peak_memory_stats()
        elif "loss" in logs:
            logs["memory_gib"] = manifest.peak_memory_mb() / 1024
        super().log(logs, *arguments, **keywords)


class Timed(Weighed):
    """GRPOTrainer mixin: every logged step gets `time_<part>_s` (PARTS).

    `log_probs` are those of the policy before the update and of the reference; the update's own pass and the optimizer's
    step count as `update`. A step inside a generation's window samples nothing, so its `time_generate_s` is 0. Validation and
    saving belong to no part.
    """

    def time_steps(self):
        """Call once after construction: the weights' way to vLLM lies outside the trainer's own methods."""
        self._spent = defaultdict(float)
        self.add_callback(_Clock(self))
        if self.use_vllm:
            original = self.vllm_generation.sync_weights

            def sync_weights(*arguments, **keywords):
                with self._timed("sync"):
                    return original(*arguments, **keywords)

            self.vllm_generation.sync_weights = sync_weights

    @contextlib.contextmanager
    def _timed(self, part):
        """Seconds of the block, less those of parts inside it, go to `part`."""
        _wait()
        began, inside = time.monotonic(), sum(self._spent.values())
        try:
            yield
        finally:
            _wait()
            self._spent[part] += time.monotonic() - began - (sum(self._spent.values()) - inside)

    def _generate(self, *arguments, **keywords):
        with self._timed("generate"):
            return super()._generate(*arguments, **keywords)

    def _calculate_rewards(self, *arguments, **keywords):
        with self._timed("reward"):
            return super()._calculate_rewards(*arguments, **keywords)

    def _get_per_token_logps_and_entropies(self, *arguments, **keywords):
        with contextlib.nullcontext() if torch.is_grad_enabled() else self._timed("log_probs"):
            return super()._get_per_token_logps_and_entropies(*arguments, **keywords)

    def log(self, logs, *arguments, **keywords):
        """Add the times since the last logged step."""
        if "loss" in logs:
            logs |= {f"time_{part}_s": round(self._spent[part], 4) for part in PARTS}
            self._spent.clear()
        super().log(logs, *arguments, **keywords)


class _Clock(TrainerCallback):
    """Whatever of a step, its optimizer included, is no other part is the update's."""

    def __init__(self, trainer):
        self.trainer, self.block = trainer, None

    def on_step_begin(self, args, state, control, **kwargs):
        self.block = self.trainer._timed("update")
        self.block.__enter__()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.block.__exit__(None, None, None)


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()
