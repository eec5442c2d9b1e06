"""When several processes stop by the clock; how one stops is in tests/training/test_resume.py."""

import time
from types import SimpleNamespace

import torch

from hybrid_lora.common import checkpoints
from hybrid_lora.modeling.stopping import Stopping


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
