"""Models whose weights are divided among processes (FSDP2, DeepSpeed ZeRO-3): calling a part of one, making one whole.

FSDP2 gathers a decoder layer's weights as the layer is called, those outside of layers (embedding, last norm, LM head) only as
the whole model is. `generate` of a PEFT model and our validation loss call its inside. ZeRO-3 gathers as any module is called
and lets go after it, but our loss multiplies by the LM head's weight itself.

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
        yield


def gathered(module):
    """In here the weights of one module are whole under ZeRO-3, too, whoever uses them; all processes must enter together."""
    divided = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if not divided:
        return contextlib.nullcontext()
    from deepspeed import zero

    return zero.GatheredParameters(divided)


def whole_weights(accelerator, wrapped):
    """The state dict of a divided model on the first process, of which all processes give their parts; None if it is not divided.

    What DeepSpeed's bf16 computes with is rounded; of trained weights those are taken which its optimizer holds in float32.
    """
    if not sharded(accelerator):
        return None
    found, seen = accelerator.get_state_dict(wrapped), {}
    for name, parameter in accelerator.unwrap_model(wrapped).named_parameters(remove_duplicate=False):
        weight = seen.get(id(parameter))
        if weight is None:
            weight = seen[id(parameter)] = _as_trained(parameter) if hasattr(parameter, "ds_id") else found.get(name)
        if accelerator.is_main_process and weight is not None:
            found[name] = weight  # tied weights are one tensor under two names, which is then written once
    return found


def _as_trained(parameter):
    """What DeepSpeed's optimizer holds of a parameter, whole, or None if it is frozen; all processes must ask."""
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter).cpu() if parameter.requires_grad else None


def _wait_for_none(model):
    for module in model.modules():
        if hasattr(module, "_get_fsdp_state"):
            module._get_fsdp_state()._modules_to_run_forward.clear()
