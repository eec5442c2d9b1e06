"""What a policy folder says of itself: exact module names, the base model it belongs to, and a model card.

PEFT writes the shortest endings that tell its targets apart, and the path that the base was loaded from. Names in full and
the base's repository on the hub are as valid to `PeftModel.from_pretrained`, and can be read by a person.
"""

import re
from pathlib import Path

from safetensors import safe_open

from hybrid_lora.common.files import read_json, write_json, write_text
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.contracts import base_model, model_card
from hybrid_lora.contracts.modules import TYPES


def finish(folder, model, train, allocation, about, programs=None):
    """Complete a saved policy `folder`; returns what its manifest records beside `about`: {base, data, placement}.

    model: folder of the base; train: the corpus file; allocation: path or None; about: keys settings, trainable, selected_step,
    validation_loss, packages and python of the manifest; programs: file of the corpus whose code rows were added, or None.
    README.md is written, and adapter_config.json with exact names.
    """
    objective = about["settings"]["objective"]
    found = {"base": base_model.describe(model), "data": _data(train, objective["corpus"])}
    if programs:
        found["data"]["programs"] = _data(programs, objective["code_corpus"])
    found["placement"] = _placement(folder, allocation)
    adapted = (folder / "adapter_config.json").is_file()
    if adapted:
        _name_exactly(folder / "adapter_config.json", found, model)
    write_text(folder / model_card.NAME, model_card.text("adapter" if adapted else "full", {**about, **found}))
    return found


def _placement(folder, allocation):
    """{fft, lora: exact names in the model's order; lora_config; allocation: how they were chosen, or None}."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return {"fft": [], "lora": []}
    config = read_json(path)
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        adapted = {key.split(".lora_A.")[0].removeprefix("base_model.model.") for key in file.keys() if ".lora_A." in key}  # noqa: SIM118
    lora = {"rank": config["r"], "alpha": config["lora_alpha"], "dropout": config["lora_dropout"]}
    names = {"fft": _ordered(config["modules_to_save"] or []), "lora": _ordered(adapted)}
    return {**names, "lora_config": lora, "allocation": _chosen(allocation)}


def _ordered(names):
    def place(name):
        layer, part = re.search(r"\.layers\.(\d+)\.", name), name.rsplit(".", 1)[-1].removesuffix("_proj")
        return int(layer[1]) if layer else -1, TYPES.index(part) if part in TYPES else -1, name

    return sorted(names, key=place)


def _chosen(allocation):
    if allocation is None:
        return None
    value = allocation_file.read(allocation)
    return {key: value[key] for key in ("probe", "criterion", "budget", "overflow", "counts")}


def _name_exactly(path, found, model):
    config, base = read_json(path), found["base"]
    config["target_modules"] = found["placement"]["lora"] or config["target_modules"]
    # Relative: from the checkout PEFT finds the base by itself, and no path of this machine is published.
    config["base_model_name_or_path"] = base["id"] if base["hub"] or Path(model).is_absolute() else str(model)
    config["revision"] = base["revision"]
    write_json(path, config)


def _data(train, corpus):
    """Where the corpus came from, read from the manifest beside it; without one, its name alone."""
    beside = Path(f"{train}.manifest.json")
    if not beside.is_file():
        return {"corpus": corpus}
    made = read_json(beside)
    settings = made["settings"]
    found = {"corpus": corpus, "rows": made.get("rows"), "format": settings["format"], "seed": settings["seed"]}
    found["sha256"] = next(iter(made["outputs"].values()), None)
    if settings["data"] == "hub":
        hub = settings["hub"]
        return {**found, **hub, "commit": made.get("hub_commit")}
    if settings["data"] == "generated":
        return {**found, "generated": settings["generated"]}
    files = {Path(path).name: sha for path, sha in made["inputs"].get("source", {}).items()}
    return {**found, "file": next(iter(files), None), "file_sha256": next(iter(files.values()), None)}
