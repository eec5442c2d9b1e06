"""GRPO and GSPO with TRL's GRPOTrainer (Appendix B.2).

GRPO averages clipped token ratios per sequence (loss_type "grpo"); GSPO is the same with one ratio a sequence. With one
optimizer step per generation the ratio is 1 and both are equal: `updates_per_generation` or `iterations` must exceed 1
for them to differ. Advantages are Eq. 18's by default (`advantages`), TRL's by setting.
"""

import importlib.util
import json
import os
import socket

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from hybrid_lora.common import ranks
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.grading import dispatch
from hybrid_lora.modeling import trainer
from hybrid_lora.modeling.resuming import ExactResume
from hybrid_lora.objectives import reporting, rewards, vllm_outputs, vllm_sync
from hybrid_lora.objectives.advantages import GroupAdvantages
from hybrid_lora.objectives.optimizer import TwoRates
from hybrid_lora.objectives.timing import Timed
from hybrid_lora.objectives.updates import SteadyUpdates

# One host, and nobody is told or asked anything.
PRIVATE = {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}


class RLTrainer(ExactResume, TwoRates, Timed, SteadyUpdates, GroupAdvantages, GRPOTrainer):
    """TRL's trainer with two learning rates, Eq. 18's advantages, updates that do not depend on the number of processes, and
    its time by parts."""


def build(model, peft, words, rows, settings, seed, work, callbacks, grading, workers, run, held_out=()):
    """The trainer of a PEFT model (or, with `peft` None, of a whole one); held_out: rows whose prompts will be answered, too;
    the others as for `pieces`."""
    parts = pieces(rows, settings, seed, work, grading, workers, run)
    prompts = [*parts["train_dataset"]["prompt"], *(row["messages"][:-1] for row in held_out)]
    fit_engine(parts["args"], prompts, words, model.config, settings)
    with vllm_sync.shown_to_engine(model, work, settings["rollouts"]), vllm_sync.reached(settings):
        built = RLTrainer(model, processing_class=words, callbacks=callbacks, peft_config=peft, **parts)
    for config in getattr(built.model, "peft_config", {}).values():
        config.base_model_name_or_path = model.name_or_path  # not the folder that vLLM was shown
    built.learning_rates = settings["learning_rate"]
    built.use_advantages(settings)
    built.update_seed = seed
    if built.use_vllm:
        vllm_sync.attach(built)
        vllm_outputs.group_prompts(built.vllm_generation)
    built.time_steps()
    if settings["algorithm"] == "gspo" and window(settings) == 1 and ranks.first():
        print("note: with one update per generation every ratio is 1, and gspo is the same as grpo", flush=True)
    return built


def pieces(rows, settings, seed, work, grading, workers, run):
    """Keyword arguments reward_funcs, args and train_dataset for any GRPOTrainer, whatever it trains.

    settings: one entry of config `objectives`; rows: corpus rows; seed: the run's; work: folder of checkpoints;
    grading: config `grading`; run: name under which it is reported. UserError if no row can be verified or every reward has
    weight zero.
    """
    if settings["rollouts"] == "vllm":
        if importlib.util.find_spec("vllm") is None:
            raise UserError("objectives.*.rollouts is vllm, which is not installed; use the GPU lock or rollouts: transformers")
        for name, value in PRIVATE.items():
            os.environ.setdefault(name, value)
        if settings["vllm"]["mode"] == "colocate":
            _meeting_point()
            vllm_outputs.read_flat()
    usable = rewards.verifiable(rows, settings["sources"])
    if not usable:
        raise UserError(f"corpus {settings['corpus']}: no row of sources {', '.join(settings['sources'])} can be verified")
    functions, weights = rewards.functions(settings["rewards"], grading, settings["max_completion_tokens"], workers)
    if not functions:
        raise UserError("objectives.*.rewards: all weights are zero; give at least one of accuracy, format, length")
    if settings["rewards"]["accuracy"] or settings["rewards"]["format"]:
        dispatch.ready({rewards.kind(row) for row in usable}, grading)  # not only when the first program is to be run
    return {
        "reward_funcs": functions,
        "args": _arguments(settings, derive(seed, "training") % 2**31, work, weights, run),
        "train_dataset": _dataset(usable, settings, seed),
    }


def fit_engine(args, prompts, words, config, settings):
    """Give a colocated engine room for the longest prompt (a list of messages) and answer, unless its length is set; its cache
    must hold a sequence of that length, and a model's context may be far longer. args: a GRPOConfig, which is changed.

    UserError if a prompt is too long, which vLLM would say in the middle of a training.
    """
    if settings["rollouts"] != "vllm":
        return
    chosen, context = settings["vllm"]["max_model_len"], getattr(config, "max_position_embeddings", None)
    limit = chosen or context
    different = list({json.dumps(prompt): prompt for prompt in prompts}.values())
    ids = words.apply_chat_template(different, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    lengths = [len(found) for found in ids]
    if limit and (long := [length for length in lengths if length >= limit]):
        raise UserError(
            f"objectives.*.vllm.max_model_len: {limit} tokens leave no room for an answer to {len(long)} of {len(lengths)} "
            f"prompts; allowed: more than {max(long)}, or a corpus of shorter prompts"
        )
    if not chosen:
        needed = max(lengths) + settings["max_completion_tokens"]
        args.vllm_max_model_length = min(needed, context or needed)


def _meeting_point():
    """A port of its own for the engine of a training that no launcher gave one. TRL would choose the first free one of a fixed
    list long before the engine takes it, so that of two trainings started together on one host the second would end."""
    if os.environ.get("MASTER_PORT", "").strip().lower() in ("", "0", "auto"):  # as TRL reads it
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")


def window(settings):
    """Optimizer steps made from one generation; a checkpoint inside a window also has to hold its completions."""
    return settings["updates_per_generation"] * settings["iterations"]


def _dataset(rows, settings, seed):
    """Exactly the prompts that training will ask for, epochs laid end to end.

    Each epoch is a permutation from (seed, epoch). Everything is TRL's epoch 0, inside which its resume is exact.
    """
    generations = -(-settings["steps"] // window(settings))
    needed = generations * settings["prompts_per_generation"]
    order = []
    for epoch in range(-(-needed // len(rows))):
        generator = torch.Generator().manual_seed(derive(seed, "prompt-order", epoch))
        order += torch.randperm(len(rows), generator=generator).tolist()
    chosen = [rows[i] for i in order[:needed]]
    return Dataset.from_dict(
        {
            "prompt": [row["messages"][:-1] for row in chosen],
            "row_kind": [rewards.kind(row) for row in chosen],
            "gold": [row["gold"] for row in chosen],
            "tests": [row["tests"] for row in chosen],
        }
    )


def _arguments(settings, seed, work, weights, run):
    size = settings["device_batch_size"]
    completions = trainer.share(
        settings["prompts_per_generation"] * settings["group_size"],
        settings["updates_per_generation"] * size,
        "prompts_per_generation * group_size",
        "updates_per_generation * device_batch_size",
    )
    return trainer.on_one_gpu(
        GRPOConfig(
            gradient_accumulation_steps=completions // settings["updates_per_generation"] // size,
            steps_per_generation=completions // size,
            num_generations=settings["group_size"],
            num_iterations=settings["iterations"],
            temperature=settings["temperature"],
            max_completion_length=settings["max_completion_tokens"],
            beta=settings["kl"],
            epsilon=settings["clip"],
            loss_type="grpo",
            importance_sampling_level="sequence" if settings["algorithm"] == "gspo" else "token",
            scale_rewards="group",
            use_bias_correction_kl=False,  # the plain k3 estimator
            reward_weights=weights,
            shuffle_dataset=False,  # _dataset is in order already
            **(_engine(settings["vllm"]) if settings["rollouts"] == "vllm" else {}),
            **trainer.common(settings, seed, work),
            **trainer.QUIET | reporting.arguments(run),
        )
    )


def _engine(chosen):
    """The arguments that concern vLLM. chosen: `vllm` of an objective."""
    return {
        "use_vllm": True,
        "vllm_mode": chosen["mode"],
        "vllm_importance_sampling_correction": chosen["importance_correction"] == "token",
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_gpu_memory_utilization": chosen["gpu_memory_utilization"],
        "vllm_tensor_parallel_size": chosen["tensor_parallel"],
        "vllm_max_model_length": chosen["max_model_len"],
        "vllm_enable_sleep_mode": chosen["sleep"],
        "vllm_server_base_url": chosen["server"],
        "vllm_group_port": chosen["group_port"],
        # a server is asked over HTTP, which knows no such settings
        **({"generation_kwargs": vllm_outputs.SAMPLING} if chosen["mode"] == "colocate" else {}),
    }
