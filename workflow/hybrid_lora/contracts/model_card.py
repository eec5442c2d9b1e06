"""README.md of a trained or exported model: a model card in the hub's format, from the policy's manifest alone.

Front matter: base_model, library_name, license, datasets, tags, pipeline_tag. Below it: how to load it, the run's settings,
the data with their revisions, which modules were trained in full, and evaluation results where there are any. A setting
that is an absolute path is shown by its last part only: cards are published.
"""

from pathlib import PurePath

import yaml

from hybrid_lora.contracts.base_model import UNKNOWN
from hybrid_lora.contracts.modules import TYPES

NAME = "README.md"
KINDS = {
    "adapter": ("peft", "adapter", "a PEFT adapter"),
    "merged": ("transformers", "finetune", "the base model with the trained adapter merged into it"),
    "full": ("transformers", "finetune", "a model all of whose parameters were trained"),
}
PLACEMENTS = {
    "full": "every parameter",
    "lora": "LoRA on all candidate modules",
    "lora-ffn": "attention in full, LoRA on the feed-forward modules",
    "criterion": "Hybrid-LoRA: some modules in full, LoRA on the others",
}


def text(kind, about, results=(), license=None):
    """The card as text.

    kind: adapter | merged | full; about: the policy's manifest (settings, base, data, placement, trainable, selected_step,
    validation_loss, packages); results: metrics records with `benchmark`; license: an identifier that replaces the base's.
    """
    parts = [_front_matter(kind, about, license), _title(kind, about), _usage(kind, about), _allocation(about)]
    parts += [_data(about), _results(results), _settings(about)]
    return "\n".join(part for part in parts if part)


def _front_matter(kind, about, license):
    library, relation, _ = KINDS[kind]
    settings, base = about["settings"], about["base"]
    licence = {"license": license} if license else base["license"]
    fields = {"base_model": base["id"], "base_model_relation": relation, "library_name": library, **licence}
    fields["pipeline_tag"] = "text-generation"
    if repositories := [data["repo"] for data in _corpora(about) if data.get("repo")]:
        fields["datasets"] = repositories
    tags = ["hybrid-lora", "post-training", settings["objective"]["algorithm"], "trl"]
    if settings["placement"] != "full":
        tags += ["peft", "lora"]
    fields["tags"] = tags
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---\n"


def _title(kind, about):
    settings, base = about["settings"], about["base"]
    revision = f" (revision `{base['revision']}`)" if base["revision"] else ""
    licence = "" if base["license"]["license"] != UNKNOWN else " The base model's folder states no licence."
    how = f"post-trained with {settings['objective']['algorithm'].upper()}; trained: {PLACEMENTS[settings['placement']]}."
    ours = "Made by Hybrid-LoRA, an implementation of arXiv 2605.18822."
    what = f"This folder holds {KINDS[kind][2]}.{licence}"
    return f"# {settings['run']}\n\n{base['id']}{revision}, {how} {what} {ours}\n"


def _usage(kind, about):
    base = about["base"]
    lines = ["## Loading", "", "```python"]
    if kind == "adapter":
        revision = f', revision="{base["revision"]}"' if base["hub"] else ""
        where = f'"{base["id"]}"' if base["hub"] else f'"..."  # the folder of {base["id"]}'
        lines += ["from peft import PeftModel", "from transformers import AutoModelForCausalLM", ""]
        lines += [f"base = {where}", f'model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype="auto")']
        lines += ['model = PeftModel.from_pretrained(model, "THIS_FOLDER")']
    else:
        lines += ["from transformers import AutoModelForCausalLM", ""]
        lines += ['model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto")']
    lines += ["```", ""]
    if kind == "adapter" and about["placement"]["fft"]:
        lines += ["vLLM takes no adapter with `modules_to_save`: merge it first (`hybrid_lora export --merged`).", ""]
    return "\n".join(lines)


def _allocation(about):
    placement, counts = about["placement"], about["trainable"]
    lines = ["## What was trained", "", "| | modules | parameters |", "| :-- | --: | --: |"]
    full = len(placement["fft"]) if about["settings"]["placement"] != "full" else "all"
    lines += [f"| in full | {full} | {counts['fft']:,} |", f"| LoRA | {len(placement['lora'])} | {counts['lora']:,} |"]
    lines += [f"| trained, of {counts['all']:,} | | {counts['total']:,} |", ""]
    if placement.get("lora_config"):
        lora = placement["lora_config"]
        lines += [f"LoRA of rank {lora['rank']}, alpha {lora['alpha']}, dropout {lora['dropout']}.", ""]
    chosen = placement.get("allocation")
    if chosen and chosen["budget"]:
        budget = chosen["budget"]
        amount = budget.get("ratio", budget.get("limit"))
        lines += [
            f"Modules were chosen by criterion `{chosen['criterion']}` (probe `{chosen['probe']}`) under a budget of "
            f"{amount:,} in unit `{budget['unit']}`, of which {budget['used']:.6g} is used; overflow `{chosen['overflow']}`.",
            "",
        ]
    if placement["fft"]:
        lines += ["In full, by type: " + ", ".join(f"{n} {part}" for part, n in _by_type(placement["fft"]) if n) + ".", ""]
    return "\n".join(lines)


def _by_type(names):
    ends = [name.rsplit(".", 1)[-1] for name in names]
    return [(part, ends.count(f"{part}_proj")) for part in TYPES]


def _corpora(about):
    """What is known of the corpus and of the one whose code rows were added, if any."""
    data = about["data"]
    return [data, *([data["programs"]] if "programs" in data else [])]


def _data(about):
    lines, sources = ["## Data", ""], ", ".join(about["settings"]["objective"].get("sources", []))
    for data, rows in zip(_corpora(about), (sources, "code, with tests")):
        hidden = ("corpus", "programs")
        known = [f"- {key}: `{_plain(data[key])}`" for key in sorted(data) if key not in hidden and data[key] is not None]
        head = f"Corpus `{data['corpus']}`" + (f", rows of {rows}" if rows else "") + (":" if known else ".")
        lines += [head, "", *known, *([""] if known else [])]
    return "\n".join(lines)


def _results(results):
    if not results:
        return ""
    lines = ["## Results", "", "| benchmark | metric | value | 95 % interval | problems |", "| :-- | :-- | --: | :-- | --: |"]
    for one in results:
        interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
        lines.append(f"| {one['benchmark']} | {one['metric']} | {100 * one['value']:.1f} % | {interval} | {one['n']} |")
    return "\n".join([*lines, ""])


def _settings(about):
    packages = ", ".join(f"{name} {version}" for name, version in sorted(about["packages"].items()))
    shown = yaml.safe_dump(_plain(about["settings"]), sort_keys=False, allow_unicode=True)
    return (
        f"## Run\n\nKept: step {about['selected_step']}, validation loss {about['validation_loss']:.4f} (nats per token).\n\n"
        f"```yaml\n{shown}```\n\nPython {about['python']}; {packages}.\n"
    )


def _plain(value):
    """Settings as plain YAML values; an absolute path is shown by its last part."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str) and (value.startswith("~") or PurePath(value).is_absolute()):
        return PurePath(value).name
    return value
