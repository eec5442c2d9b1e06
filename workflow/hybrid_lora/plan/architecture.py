"""The shape of a run's model without its weights, and what a method trains of it.

A shape comes from the model folder that the pipeline made, a local folder, the hub's cache on this machine, the
configuration (models from scratch) or, for Qwen2.5, from its published numbers: nothing is fetched.
"""

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_lora.allocation import select, shapes
from hybrid_lora.common.errors import UserError
from hybrid_lora.config import paths
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.modeling import candidates, load

QWEN = re.compile(r"Qwen/Qwen2\.5-(?:Coder-|Math-)?(0\.5B|1\.5B|3B|7B)(?:-Instruct)?")
ATTENTION = ("q", "k", "v", "o")
RANDOM = 20  # rankings tried where there is none, beside smallest and largest modules first


@dataclass(frozen=True)
class Shape:
    """candidates: of `modeling.candidates`, in layer order; sizes in parameters; `embedding` is one of V x D matrices."""

    candidates: list
    total: int
    embedding: int
    tied: bool
    hidden: int
    vocabulary: int
    layers: int
    context: int
    known_from: str

    def layer(self, number=0):
        """{type: Candidate} of one layer."""
        return {c.type: c for c in self.candidates if c.layer == number}

    def width(self, part):
        """Output features of a type, in the first layer."""
        return self.layer()[part].out_features


@dataclass(frozen=True)
class Trained:
    """What a run trains. fft: candidates in full (None: every parameter); counts in parameters; note: what is guessed."""

    placement: str
    fft: list | None
    full: int
    lora: int
    modules_lora: int
    note: str
    dropout: float = 0.0  # of LoRA's branches

    @property
    def total(self):
        """All trained parameters."""
        return self.full + self.lora


def shape(name, entry, base):
    """The Shape of entry `name` of config `models`; UserError where its configuration is not on this machine."""
    made = Path(base) / "results/models" / name
    if (made / "config.json").is_file():
        return of_model(load.shape(made), f"results/models/{name}")
    if entry["source"] == "scratch":
        return of_model(_scratch(entry), "the configuration")
    if entry["source"] == "local":
        folder = paths.model_folder(entry["path"], base)
        return of_model(load.shape(folder), str(entry["path"]))
    if cached := _cached(entry):
        return of_model(load.shape(cached), "the hub's cache")
    if known := QWEN.fullmatch(entry["path"]):
        return of_model(shapes.model(known[1]), f"the published shape of Qwen2.5 {known[1]}")
    raise UserError(
        f"models.{name}: the shape of {entry['path']} is not on this machine and it is no Qwen2.5; fetch the model first "
        f"(snakemake ... results/models/{name}/modules.json), or name a folder that holds its config.json (source: local)"
    )


def of_model(model, known_from):
    """The Shape of a model on the meta device."""
    found, config = candidates.find(model), model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embedding
    total = sum(p.numel() for p in model.parameters())
    sizes = (config.hidden_size, len(embedding), config.num_hidden_layers, config.max_position_embeddings)
    return Shape(found, total, embedding.numel(), tied, *sizes, known_from)


def _scratch(entry):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        size = entry["tokenizer"]["vocab_size"]
        return Qwen2ForCausalLM(Qwen2Config(vocab_size=size, tie_word_embeddings=True, **entry["architecture"]))


def _cached(entry):
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry["path"], "config.json", revision=entry["revision"])
    return Path(found).parent if isinstance(found, str) else None


def trained(shape, placement, settings, budget=None, file=None):
    """What is Trained. placement: of a method; settings: config `allocation`; budget: the run's; file: its allocation file.

    Where the allocation is still to be made, a seeded random order stands for its ranking, and the note says between what the
    counts may lie.
    """
    if placement == "full":
        return Trained(placement, None, shape.total, 0, 0, "")
    found = _adapted(shape, placement, settings, budget, file)
    return replace(found, dropout=settings["lora"].get("dropout", 0.0))


def _adapted(shape, placement, settings, budget, file):
    rank = settings["lora"]["rank"]
    if placement == "criterion":
        if file is not None and Path(file).is_file():
            return _of(shape, placement, allocation_file.read(file)["fft"], rank, f"as in {file}")
        return _guessed(shape, settings, budget, rank)
    fft = [c.module for c in shape.candidates if placement == "lora-ffn" and c.type in ATTENTION]
    return _of(shape, placement, fft, rank, "")


def _guessed(shape, settings, budget, rank):
    def chosen(keys):
        place = {key: i for i, key in enumerate(sorted(set(keys)), 1)}
        rows = [vars(c) | {"rank": place[key]} for c, key in zip(shape.candidates, keys)]
        return select.select(rows, settings["unit"], budget, settings["overflow"])[0]

    sizes = [c.params for c in shape.candidates]
    orders = [random.Random(seed).sample(range(len(sizes)), len(sizes)) for seed in range(RANDOM)]
    found = [_of(shape, "criterion", chosen(keys), rank, "") for keys in (*orders, sizes, [-size for size in sizes])]
    totals = [one.total for one in found]
    note = (
        f"not allocated yet: a random ranking stands for the criterion's; other rankings give {min(totals):,} to {max(totals):,}"
    )
    return replace(found[0], note=note)


def _of(shape, placement, fft, rank, note):
    rows = [vars(c) for c in shape.candidates]
    full, lora = select.trainable(rows, fft, rank)
    return Trained(placement, list(fft), full, lora, len(rows) - len(fft), note)
