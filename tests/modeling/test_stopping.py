"""When several processes stop by the clock, and what one may interrupt; how it stops is in tests/training/test_resume.py."""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch

from hybrid_lora.common import checkpoints
from hybrid_lora.modeling.stopping import Stopped, Stopping


def test_several_processes_know_after_their_first_step_how_long_one_takes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *given: None)
    args, control = SimpleNamespace(device="cpu"), SimpleNamespace(should_save=False, should_training_stop=False)
    for enough in (True, False):
        stopping = Stopping(alone=False)
        stopping.on_step_begin(args, None, control)
        time.sleep(0.3)
        stopping.on_pre_optimizer_step(args, None, control)
        stopping.end = time.time() + checkpoints.options()["stop_margin_s"] + (10 if enough else 0.2)
        stopping.on_step_end(args, None, control)
        assert control.should_save == control.should_training_stop == (not enough)
    assert stopping.reason.startswith("the end of the job's time")


def test_what_can_be_made_again_is_given_up_by_one_process_alone():
    for alone in (True, False):
        stopping = Stopping(alone)
        stopping.reason = "SIGTERM"
        with pytest.raises(Stopped) if alone else contextlib.nullcontext(), stopping.interruptible():
            assert not alone  # not even begun
        assert not stopping.may_give_up


def test_its_time_is_no_part_of_the_margin_before_the_end_of_a_job():
    """A stop need not wait for it; several processes do wait."""
    for alone in (True, False):
        stopping = Stopping(alone)
        stopping.on_step_begin(None, None, None)
        stopping.on_pre_optimizer_step(None, None, None)
        with stopping.interruptible():
            time.sleep(0.3)
        stopping.on_step_begin(None, None, None)
        assert (stopping.longest_close < 0.2) == alone
        assert stopping.longest_step >= 0.0
