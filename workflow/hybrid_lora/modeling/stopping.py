"""Stopping a training from outside so that it can go on: SIGTERM, Ctrl-C, and the end of a Slurm job's time.

Weights change in the optimizer's step only, and all randomness of a step comes from its number (`resuming`). So where one
process trains, a stop need not wait for the end of a step, which may be half an hour of sampling: the step is given up where
it is, and what the step before it left is saved. A validation changes nothing; it is given up, too, and made again when the
training goes on. Several processes have to agree, so they stop together after a step and its validation.
"""

import contextlib
import os
import signal
import threading
import time

import torch
from transformers import TrainerCallback

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import Interrupted
from hybrid_lora.common.job_time import job_end

PERIOD_S = 0.5  # between two looks at the clock


class Stopped(BaseException):
    """Raised inside a step to give it up; not an Exception, so that no grader or engine takes it for its own."""


class Stopping(TrainerCallback):
    """A context in which SIGTERM, SIGINT and the coming end of the job's time stop a Trainer.

    `reason` is None until then. alone: one process trains; it gives a step up with Stopped. Otherwise the Trainer is told to
    save and stop after the step in which any process was asked to. save_s: what a save is expected to take.
    """

    def __init__(self, alone=True, save_s=0.0):
        self.alone, self.reason, self.status = alone, None, 0
        self.end, self.left = job_end(), threading.Event()
        self.may_give_up, self.before = False, {}
        self.began = self.closing = None
        self.longest_step, self.longest_close = 0.0, save_s

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._asked) for number in (signal.SIGTERM, signal.SIGINT)}
            if self.end:
                threading.Thread(target=self._watch_clock, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.left.set()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def interrupted(self, what, step, before=0):
        """The exception that ends the command; step: up to which the state is saved; before: where this process began."""
        done = f"after step {step}" if step > before else f"before it finished a step (after {before})"
        return Interrupted(f"{what}: stopped {done} by {self.reason}; the state is saved, start it again to go on", self.status)

    def margin(self):
        """Seconds before the job's end at which to stop: to finish what cannot be given up, to save, and to end the process."""
        return checkpoints.options()["stop_margin_s"] + 2 * self.longest_close

    def on_step_begin(self, args, state, control, **kwargs):
        """From here on the step may be given up."""
        self._measure()
        self.began = time.monotonic()
        self.may_give_up = self.alone
        if self.alone and self.reason:
            self.may_give_up = False
            raise Stopped

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """From here until the next step begins (update, log, checkpoint) all is finished, but what is `interruptible`."""
        self.may_give_up, self.closing = False, time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Several processes: stop all if one was asked to, or if there is no time for another step."""
        if self.alone:
            return
        self._measure()
        if self.end and self.reason is None and time.time() + self.longest_step + self.margin() > self.end:
            self._no_time()
        asked = torch.tensor(float(self.reason is not None), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked.item():
            self.reason, self.status = self.reason or "another process", self.status or 128 + signal.SIGTERM
            control.should_save = control.should_training_stop = True

    @contextlib.contextmanager
    def interruptible(self):
        """Around what changes no state and can be made again: if one process trains, a stop raises Stopped in it, at once if it
        came before. Its time is none that stopping takes."""
        if not self.alone:
            yield
            return
        began, self.may_give_up = time.monotonic(), True
        try:
            if self.reason:
                raise Stopped
            yield
        finally:
            self.may_give_up = False
            if self.closing:
                self.closing += time.monotonic() - began

    def _measure(self):
        """Take the step that was begun last as it is by now."""
        if self.closing:
            now = time.monotonic()
            self.longest_close = max(self.longest_close, now - self.closing)
            self.longest_step = max(self.longest_step, now - self.began)

    def _no_time(self):
        left = max(self.end - time.time(), 0)
        self.reason = f"the end of the job's time in {left:.0f} s (Slurm)"
        self.status = os.EX_TEMPFAIL

    def _asked(self, number, frame):
        """Signal handler: give the step up, or remember."""
        if self.reason is None:
            self.reason, self.status = signal.Signals(number).name, 128 + number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time
        if self.may_give_up:
            self.may_give_up = False
            raise Stopped

    def _watch_clock(self):
        """Thread: raise SIGTERM in the main one when the time left is what stopping needs, wherever its step is."""
        while not self.left.wait(PERIOD_S):
            if self.reason is None and time.time() + self.margin() > self.end:
                self._no_time()
                os.kill(os.getpid(), signal.SIGTERM)
