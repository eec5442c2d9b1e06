"""Models whose weights are divided among processes (FSDP2, DeepSpeed ZeRO-3): calling a part of one.

FSDP2 gathers a decoder layer's weights as the layer is called, those outside of layers (embedding, last norm, LM head) only as
the whole model is. `generate` of a PEFT model and our validation loss call its inside. ZeRO-3 gathers as any module is called,
but the validation loss multiplies by the LM head's weight itself.

accelerate makes one group of the weights outside of layers. Of its modules the LM head never runs, as TRL's loss and ours only
read its weight. torch before 2.13 then waits for it across passes, and does not gather what has been divided again meanwhile.
"""

import contextlib

import torch
from packaging.version import Version

WAITS = Version(torch.__version__) < Version("2.13.0")  # for modules of a group that do not run


def sharded(accelerator):
    """Whether no process holds all weights."""
    return accelerator.is_fsdp2 or accelerator.distributed_type in ("FSDP", "DEEPSPEED")


@contextlib.contextmanager
def callable_inside(model):
    """In here weights outside of the layers are whole; all processes must enter together. Models that are whole stay so."""
    with contextlib.ExitStack() as stack:
        if hasattr(model, "unshard"):
            if WAITS:
                _wait_for_none(model)
                stack.callback(_wait_for_none, model)
            model.unshard()
            stack.callback(model.reshard)
        elif hasattr(next(model.parameters()), "ds_id"):
            from deepspeed.zero import GatheredParameters

            stack.enter_context(GatheredParameters(model.get_output_embeddings().weight))
        yield


def _wait_for_none(model):
    for module in model.modules():
        if hasattr(module, "_get_fsdp_state"):
            module._get_fsdp_state()._modules_to_run_forward.clear()
