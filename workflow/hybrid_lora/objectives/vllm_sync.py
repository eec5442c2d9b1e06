"""Weights to vLLM without merging in place: only what is trained, computed beside the frozen weights.

TRL merges the adapter into the base, sends every weight and unmerges: in bf16 that drifts (6.7 % of the base's weights had
changed after 50 cycles), and nine tenths of what is sent vLLM has already, as it loaded the same base.
"""

import contextlib
import os
from pathlib import Path

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper

from hybrid_lora.common.errors import UserError

ADAPTER = "default"
OURS = ("modules.json", "manifest.json")  # vLLM takes a modules.json for that of an embedding model
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # what vLLM keeps as rows of one weight


def adapted(model, gather, partners=False):
    """(name, tensor) of every weight that the adapter of a PeftModel changes, as vLLM is to have it; frozen ones are only read.

    gather: context manager for a list of parameters, in which sharded ones are whole. What has LoRA comes as W + s B A, added
    in float32 and rounded once to the dtype of W; what is trained in full comes in the dtype of its frozen original. partners:
    also the frozen weights and biases that vLLM keeps in one tensor or layer with these (`FUSED`).
    """
    model = model.get_base_model()
    beside = _beside_adapted(model) if partners else set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            base, a, b = module.get_base_layer(), module.lora_A[ADAPTER], module.lora_B[ADAPTER]
            with gather([base.weight, a.weight, b.weight]):
                weight = _whole(base.weight)
                change = module.scaling[ADAPTER] * (_whole(b.weight).float() @ _whole(a.weight).float())
                yield f"{name}.weight", (weight.float() + change).to(weight.dtype)
            if partners and base.bias is not None:
                yield from _parameters(name, {"bias": base.bias}, gather)
        elif isinstance(module, ModulesToSaveWrapper):
            dtypes = {part: p.dtype for part, p in module.original_module.named_parameters()}
            trained = dict(module.modules_to_save[ADAPTER].named_parameters())
            for part_name, value in _parameters(name, trained, gather):
                yield part_name, value.to(dtypes[part_name.removeprefix(f"{name}.")])
        elif name in beside:
            yield from _parameters(name, dict(module.named_parameters()), gather)


def _beside_adapted(model):
    """Names of the linear layers without an adapter that are fused with one that has."""
    found = {name for name, module in model.named_modules() if isinstance(module, (LoraLayer, ModulesToSaveWrapper))}
    parents = {(name.rpartition(".")[0], names) for name in found for names in FUSED if name.rpartition(".")[2] in names}
    return {f"{parent}.{name}" for parent, names in parents for name in names} - found


def _parameters(name, parameters, gather):
    for part, parameter in parameters.items():
        with gather([parameter]):
            yield f"{name}.{part}", _whole(parameter)


def everything(model, gather):
    """`adapted` and, as they are, the frozen weights that no adapter changes: for an engine that holds none."""
    for name, parameter in model.get_base_model().named_parameters():
        parts = name.split(".")
        lora_weight = parts[-2:] == ["base_layer", "weight"]
        if not lora_weight and not {"original_module", "modules_to_save", "lora_A", "lora_B"} & set(parts):
            with gather([parameter]):
                yield name.replace(".base_layer.", "."), _whole(parameter)
    yield from adapted(model, gather)


def _whole(parameter):
    """The values of a parameter, of a sharded one (FSDP2's DTensor) on all processes."""
    value = parameter.data
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def attach(trainer):
    """Have a GRPOTrainer's vLLM get the weights in this way; of a model trained in full TRL sends all, as all are trained.

    With sleep, TRL has the engine throw its weights away (level 2), so that all would be sent each time. Here it does so only
    once, as it starts; from then on they wait in the host's memory (level 1).

    A server takes weights by vLLM's layerwise reload, which makes each layer that gets any anew and leaves what of it was not
    sent uninitialized: the other rows of a fused weight, in some versions the bias. It is sent these, too.
    """
    engine, model = trainer.vllm_generation, trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PeftModel):
        return
    empty = [engine.mode == "colocate" and engine.enable_sleep_mode]
    if empty[0]:
        sleep = engine.llm.sleep
        engine.llm.sleep = lambda level=1: sleep(level=1)

    def weights():
        gather = engine._dist.gather_params
        yield from everything(model, gather) if empty[0] else adapted(model, gather, partners=engine.mode == "server")
        empty[0] = False

    engine._iter_named_params = weights


@contextlib.contextmanager
def reached(settings):
    """While a trainer is built: a vLLM server that does not answer, or cannot take weights, becomes one line.

    settings: one entry of config `objectives`.
    """
    try:
        yield
    except (OSError, NotImplementedError, RuntimeError) as error:
        engine = settings.get("vllm") or {}
        if settings["rollouts"] != "vllm" or engine["mode"] != "server":
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"objectives.*.vllm.server: {engine['server']} is of no use: {reason}") from error


@contextlib.contextmanager
def shown_to_engine(model, work, rollouts):
    """While a trainer is built with rollouts: vllm, the model's folder is one of links without what would mislead vLLM."""
    own = model.name_or_path
    if rollouts == "vllm":
        model.name_or_path = _links(own, work)
    yield
    model.name_or_path = own


def _links(model_folder, work):
    folder = Path(work) / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    for file in Path(model_folder).resolve().iterdir():
        link = folder / file.name
        if file.name not in OURS and not link.exists():
            with contextlib.suppress(FileExistsError):  # another process of this run
                os.symlink(file, link)
    return str(folder)
