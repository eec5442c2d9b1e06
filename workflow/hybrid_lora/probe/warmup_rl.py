"""Warm-up of the probe by reinforcement learning: TRL's GRPOTrainer on the branches A, B, e and alpha (Section 3.4).

The paper does not say what the probe is warmed up on; this is the objective of the final training. The model is no
PeftModel, so TRL would load a second one as the KL reference. Ours is the same model with its branches off: the trainer is
built with a KL weight of zero, which loads nothing, then gets the weight and, as `ref_model`, a function that switches the
branches off, calls the model and switches them on again. Nothing is put on the model for it. (The other way, `peft_config`
and `disable_adapter` on the model, would have it pass for a PeftModel in whatever else looks for these names.) Checkpoints
hold the branches alone, with TRL's optimizer, random and trainer state. What TRL and accelerate put on the model (its
forward pass, hooks, flags, token ids) is taken off again at the end.
"""

import contextlib
from pathlib import Path

from safetensors.torch import load_file, save_file
from trl import GRPOTrainer

from hybrid_lora.common import code
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import load, resuming, svd_lora, trainer
from hybrid_lora.modeling.resuming import ExactResume
from hybrid_lora.objectives import rl, vllm_outputs, vllm_sync
from hybrid_lora.objectives.advantages import GroupAdvantages
from hybrid_lora.objectives.updates import sampleable
from hybrid_lora.probe import warmup

ENTRY = "hybrid_lora.probe.warmup_rl"
CHOICES = {
    "rl.rollouts": {"transformers": [], "vllm": ["vllm"]},
    "rl.sources": {
        "math": ["hybrid_lora.grading.pool"],
        "science": ["hybrid_lora.grading.pool", "hybrid_lora.grading.choice"],
        "code": ["hybrid_lora.grading.pool", "hybrid_lora.grading.code", "hybrid_lora.grading.sandbox"],
    },
}
CHECKPOINT = "branches.safetensors"
OWN = ("steps", "schedule", "weight_decay", "gradient_checkpointing")  # of the warm-up where an objective has them too


class BranchTrainer(ExactResume, GroupAdvantages, GRPOTrainer):
    """TRL's trainer, whose checkpoints hold `branches` instead of the whole model."""

    branches: dict

    def _generate_single_turn(self, *arguments, **keywords):
        with sampleable(self):
            return super()._generate_single_turn(*arguments, **keywords)

    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(svd_lora.state(self.branches), folder / CHECKPOINT)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        svd_lora.load_state(self.branches, load_file(Path(resume_from_checkpoint) / CHECKPOINT))


def run(settings, model_folder, train_file, out, state, workers=1):
    """settings: {rank, init, warmup} of config `probes`, rl: the objective, grading; workers: programs graded at a time.

    Writes the same folder as `warmup.run`.
    """
    inputs = {"model": model_folder / "manifest.json", "train": train_file}
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY, settings))
    words, rows = load.tokenizer(model_folder), corpus.without_solutions(train_file)
    model, branches = warmup.attach(settings, model_folder)
    records = train(model, branches, words, rows, settings["warmup"], settings["rl"], settings["grading"], work, workers)
    warmup.publish(out, branches, records, settings, inputs, ENTRY)
    close_state(work)


def train(model, branches, words, rows, options, objective, grading, work, workers):
    """Train every branch for options["steps"] steps; returns records (dicts: step, elapsed_s, loss, reward, kl, ...).

    model: with `branches` attached, on its device; rows: corpus rows; options: a probe's `warmup`; objective: the entry of
    config `objectives` (grpo or gspo), of which only what the warm-up has no key for is used; work: folder of resumable state,
    whose name it is reported under.
    """
    if not options["steps"]:  # max_steps=0 would mean "no limit" to the Trainer
        return []
    settings = _settings(options, objective)
    record = trainer.Record("warm-up")
    with _as_found(model):
        load.set_checkpointing(model, False)  # TRL switches on transformers' own, and off while it samples
        parts = rl.pieces(rows, settings | {"kl": 0.0}, options["seed"], work, grading, workers, work.name)
        rl.fit_engine(parts["args"], parts["train_dataset"]["prompt"], words, model.config, settings)
        with vllm_sync.shown_to_engine(model, work, settings["rollouts"]), vllm_sync.reached(settings):
            built = BranchTrainer(model, processing_class=words, callbacks=[record], **parts)
        built.branches = branches
        built.use_advantages(settings)
        if settings["kl"]:
            built.beta, built.ref_model = settings["kl"], _without(branches, model)
        if settings["rollouts"] == "vllm":
            engine = built.vllm_generation
            whole = engine.mode == "server" or engine.enable_sleep_mode  # else the engine holds the model as it was found
            engine._iter_named_params = lambda: merged(model, branches, whole)
            vllm_outputs.group_prompts(built.vllm_generation)
        resuming.train(record.quiet(built), record.what)
    return record.history()


def _settings(options, objective):
    """The objective under the warm-up's options; it saves at the end of a window, where a checkpoint is smallest."""
    own = {key: options[key] for key in OWN}
    own["learning_rate"] = {"full": options["learning_rate"]}
    own["save_every"] = -(-options["save_every"] // rl.window(objective)) * rl.window(objective)
    return objective | own | {"corpus": "of the probe"}


def _without(branches, model):
    """`model` as a function, with every branch off while it runs: the original model."""

    def original(*args, **kwargs):
        before = {name for name, branch in branches.items() if branch.active}
        svd_lora.set_active(branches, ())
        try:
            return model(*args, **kwargs)
        finally:
            svd_lora.set_active(branches, before)

    return original


@contextlib.contextmanager
def _as_found(model):
    """Give the model back with the attributes, hooks and configuration that it came with; parameters keep what they learned.

    Hooks are in dicts of their own: transformers 5.23 adds one each time checkpointing is switched on and forgets the others.
    """
    owners = [vars(owner) for owner in (*model.modules(), model.config, model.generation_config)]
    hooks = [value for owner in owners for key, value in owner.items() if key.endswith("_hooks")]
    before = [(kept, dict(kept)) for kept in (*owners, *hooks)]
    try:
        yield
    finally:
        for kept, content in before:
            kept.clear()
            kept.update(content)


def merged(model, branches, whole=True):
    """(name, tensor) of every weight of the plain model with its branch added, W + (alpha A diag(e) B)^T: what vLLM loads.

    whole: False for those weights alone that have a branch.
    """
    for name, parameter in model.named_parameters():
        module, _, part = name.rpartition(".base.")
        if module in branches:
            value, branch = parameter.data, branches[module]
            if part == "weight":
                value = (value.float() + (branch.alpha * (branch.A * branch.e) @ branch.B).T.detach()).to(value.dtype)
            if whole or part == "weight":
                yield f"{module}.{part}", value
        elif whole and name.rpartition(".")[0] not in branches:
            yield name, parameter.data
