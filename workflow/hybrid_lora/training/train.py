"""One run: original weights -> placement -> TRL -> the policy with the lowest validation loss (Algorithm 2, lines 11-15)."""

import platform
import shutil
from pathlib import Path

from hybrid_lora.common import checkpoints, code, manifest, ranks
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import directory_artifact, remove_rests, write_json
from hybrid_lora.common.state import close_state, open_state, published
from hybrid_lora.contracts import base_model, corpus, history, samples
from hybrid_lora.modeling import batches, fast_layers, hybrid, load, resuming, trainer
from hybrid_lora.objectives import reporting, rewards, rl, sft
from hybrid_lora.objectives.held_out import MeanReward
from hybrid_lora.objectives.timing import PARTS
from hybrid_lora.objectives.watching import Watch
from hybrid_lora.training import placement, publishing
from hybrid_lora.training.validation import NAMES, KeepBest, NextTokenLoss

ENTRY = "hybrid_lora.training.train"
CHOICES = {
    "objective.algorithm": {
        "sft": ["hybrid_lora.objectives.sft"],
        "grpo": ["hybrid_lora.objectives.rl", "hybrid_lora.objectives.rewards", "hybrid_lora.objectives.held_out"],
        "gspo": ["hybrid_lora.objectives.rl", "hybrid_lora.objectives.rewards", "hybrid_lora.objectives.held_out"],
    },
    "objective.rollouts": {"transformers": [], "vllm": ["vllm"]},
    "objective.sources": {
        "math": ["hybrid_lora.grading.pool"],
        "science": ["hybrid_lora.grading.pool", "hybrid_lora.grading.choice"],
        "code": ["hybrid_lora.grading.pool", "hybrid_lora.grading.code", "hybrid_lora.grading.sandbox"],
    },
}
SHOWN = ("loss", "reward", "kl", *(f"time_{part}_s" for part in PARTS))


def run(arguments):
    """arguments: of the `train` command; settings: {run, placement, lora, objective, grading, seed}."""
    settings = arguments.settings
    inputs = {"model": arguments.model / "manifest.json", "train": arguments.train, "val": arguments.val}
    allocation = next(iter(arguments.allocation), None)
    if allocation:
        inputs["allocation"] = allocation
    if arguments.programs:
        inputs["programs"] = arguments.programs[0]
    closure = code.sources(ENTRY, settings)
    work = _work(arguments, settings, inputs, closure)
    if work is None:
        return
    words = load.tokenizer(arguments.model)
    full = settings["placement"] == "full"  # everything is trained, and the KL's reference is computed as the policy is
    model = load.model(arguments.model, "float32" if full else settings["objective"]["dtype"])
    if full:
        load.keep_savable(model)
    peft = placement.peft_config(model, settings["placement"], settings.get("lora"), allocation)
    held_out = corpus.read(arguments.val)
    best = _keep_best(words, held_out, settings["objective"], work)
    rewarded = _rewarded(held_out, settings["objective"])
    record = trainer.Record(f"training {settings['run']}", SHOWN)
    watch = _watch(settings["objective"], work)
    callbacks = [record, watch, best] if watch else [record, best]
    built = _build(model, peft, words, arguments, work, callbacks, rewarded)
    best.trainer = built
    if watch:
        watch.trainer = built
        best.reward = MeanReward(built, rewarded) if rewarded else None
    hybrid.to_fp32_trainable(built.model)
    if settings["objective"]["fast_layers"]:
        fast_layers.apply_to(built)
    counts = placement.trainable_counts(built.model)
    if ranks.first():
        print(f"{counts['fft']:,} parameters in full + {counts['lora']:,} LoRA of {counts['all']:,}", flush=True)
    resuming.train(record.quiet(built), record.what, best.problem)
    if ranks.count() > 1:
        built.accelerator.end_training()
    if not ranks.first():
        return
    samples.write(arguments.samples, watch.rows if watch else [], {"run": settings["run"]})
    _publish(arguments, inputs, words, record, best, counts)
    close_state(work)


def _work(arguments, settings, inputs, closure):
    """The folder of resumable state, None where nothing is left to do; the first process makes it, the others wait."""
    if not ranks.first():
        return Path(arguments.state) if ranks.heard() == ranks.GO else None
    done = published(arguments.state, _manifests(arguments), settings, inputs, closure)
    work = None if done else open_state(arguments.state, settings, inputs.values(), closure)
    if work:
        remove_rests(arguments.out, arguments.history, arguments.trainable, arguments.samples)
    ranks.say(ranks.GO if work else ranks.STOP)
    return work


def _build(model, peft, words, arguments, work, callbacks, rewarded):
    settings = arguments.settings
    objective, seed, run = settings["objective"], settings["seed"], settings["run"]
    if objective["algorithm"] == "sft":
        return sft.build(model, peft, words, arguments.train, objective, seed, work, callbacks, run)
    rows = corpus.without_solutions(arguments.train)
    rows += [row for path in arguments.programs for row in corpus.without_solutions(path) if row["source"] == "code"]
    grading, workers = settings["grading"], arguments.workers
    return rl.build(model, peft, words, rows, objective, seed, work, callbacks, grading, workers, run, rewarded)


def _watch(objective, work):
    """The callback that keeps samples and warns; None for sft, which samples nothing."""
    if objective["algorithm"] == "sft":
        return None
    return Watch(objective["samples"], reporting.chosen()["variance_patience"], work / "samples.json")


def _rewarded(rows, objective):
    """The validation rows whose answers are rewarded; none where the loss alone chooses."""
    if objective["validation"].get("metric") != "reward":
        return []
    rows = sorted(rewards.verifiable(rows, objective["sources"]), key=lambda row: row["id"])[: objective["validation"]["rows"]]
    if not rows:
        raise UserError("objectives.*.validation.metric is reward, but no validation row can be verified; use nll")
    return rows


def _keep_best(words, rows, objective, work):
    rows = sorted(rows, key=lambda row: row["id"])[: objective["validation"]["rows"]]
    limit = objective.get("max_length") or 8192
    encoded = [batches.encode(words, row["messages"], limit) for row in rows]
    encoded = [(ids, prompt) for ids, prompt in encoded if prompt < len(ids)]
    if not encoded:
        raise UserError(f"corpus {objective['corpus']}: no validation row has an answer within {limit} tokens (max_length)")
    size = max(objective["device_batch_size"], 1)
    measure = NextTokenLoss(encoded, words.pad_token_id, size, objective["precision"] == "bf16")
    return KeepBest(work, measure, objective["validation"]["every"])


def _manifests(arguments):
    files = (arguments.history, arguments.trainable, arguments.samples)
    return [arguments.out / "manifest.json", *(Path(f"{path}.manifest.json") for path in files)]


def _publish(arguments, inputs, words, record, best, counts):
    records = record.history()
    by_step = {r["step"]: r for r in records}
    for name, values in zip(NAMES, (best.losses, best.rewards, best.unjudged)):
        for step, value in values.items():
            by_step.setdefault(step, {"step": step, "elapsed_s": 0.0})[name] = value
    history.write(arguments.history, records, {"run": arguments.settings["run"]})
    write_json(arguments.trainable, counts)
    selected = best.selected()
    closure = code.sources(ENTRY, arguments.settings)
    extra = {"selected_step": selected, "validation_loss": best.losses[selected], "trainable": counts}
    if best.rewards:
        extra["validation_reward"] = best.rewards[selected]
    about = {**extra, "settings": arguments.settings, "packages": manifest.packages(), "python": platform.python_version()}
    with directory_artifact(arguments.out) as folder:
        for file in best.folder().iterdir():
            if file.name != checkpoints.MARK:
                shutil.copyfile(file, folder / file.name)
        words.save_pretrained(folder)
        companions = base_model.license_files(arguments.model)  # the card links to it
        for file in companions + base_model.processor_files(arguments.model):
            shutil.copyfile(file, folder / file.name)
        allocated, programs = inputs.get("allocation"), inputs.get("programs")
        extra |= publishing.finish(folder, arguments.model, arguments.train, allocated, about, programs)
        files = sorted(p for p in folder.iterdir())
        written = manifest.describe("training.train", arguments.settings, inputs, closure, files, **extra)
        write_json(folder / "manifest.json", written)
    for artifact in (arguments.history, arguments.trainable, arguments.samples):
        manifest.write_beside(artifact, "training.train", arguments.settings, inputs, closure)
    print(f"kept step {selected}, validation loss {best.losses[selected]:.4f}", flush=True)
