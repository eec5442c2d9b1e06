"""Which weights a folder of a probe's training holds, as one SHA-256: what was measured on them carries it.

Read from the folder's manifest, so that nothing large is hashed again and other files (curves, logs) do not matter.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_json
from hybrid_lora.contracts import modules


def sha256(folder):
    """Hash of all *.safetensors of the folder: the file's own where there is one, else of their names and hashes."""
    outputs = read_json(folder / "manifest.json").get("outputs", {})
    found = {name: value for name, value in outputs.items() if name.endswith(".safetensors")}
    if not found:
        raise UserError(f"{folder / 'manifest.json'}: names no .safetensors under 'outputs'; not a probe's training")
    return next(iter(found.values())) if len(found) == 1 else sha256_json(found)


def of_model(folder):
    """What tells the model in a model folder from others: its identity in modules.json, and a hash of its weights' hashes."""
    outputs = read_json(folder / "manifest.json").get("outputs", {})
    found = {name: value for name, value in outputs.items() if name.endswith((".safetensors", ".bin"))}
    return modules.read(folder / "modules.json")["model"] | {"weights_sha256": sha256_json(found)}


def check_model(training, folder):
    """UserError unless the probe's training in the folder `training` began with the model in `folder`.

    The manifest of a training says under `model` what `of_model` gave; one that says nothing is taken as it is.
    """
    theirs, ours = read_json(training / "manifest.json").get("model"), of_model(folder)
    if theirs is not None and theirs != ours:
        key = next(key for key in sorted(ours, reverse=True) if theirs.get(key) != ours[key])
        raise UserError(f"{training}: is of model {theirs.get('id')} with another {key} than {folder}; train the probe anew")
