"""Which base model a folder of the model stage holds: identity, licence and weights, as policies record them.

No path of the machine is in it: a model of the hub has its repository and revision, any other its name alone.
"""

from pathlib import Path

import yaml

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_json
from hybrid_lora.contracts import modules

LICENSE_KEYS = ("license", "license_name", "license_link")  # of a model card's front matter on the hub
UNKNOWN = "unknown"  # the hub's word for a model that states none


def describe(folder):
    """{id, revision (None unless from the hub), hub, license: {license, ...}, weights_sha256} of results/models/{model}."""
    folder = Path(folder)
    identity = modules.read(folder / "modules.json")["model"]
    hub = identity["revision"] is not None
    return {
        "id": identity["id"] if hub else Path(identity["id"]).name,
        "revision": identity["revision"],
        "hub": hub,
        "license": license_of(folder),
        "weights_sha256": _weights(folder),
    }


def license_of(folder):
    """The licence fields of the folder's own model card (README.md); `other` where it brings a licence file alone."""
    folder = Path(folder)
    stated = {key: front_matter(folder / "README.md").get(key) for key in LICENSE_KEYS}
    stated = {key: str(value) for key, value in stated.items() if value}
    if not stated and (files := license_files(folder)):
        return {"license": "other", "license_link": files[0].name}
    return {"license": UNKNOWN, **stated}


def license_files(folder):
    """LICENSE, LICENSE.txt and the like of a model folder, in the order of names."""
    return sorted(path for path in Path(folder).glob("LICENSE*") if path.is_file())


def processor_files(folder):
    """What a multimodal model's folder has beside the tokenizer, and engines ask for: preprocessor_config.json and the like."""
    return sorted(path for path in Path(folder).glob("*processor_config.json") if path.is_file())


def front_matter(path):
    """The YAML mapping between the first two lines `---` of a model card; {} where there is none that can be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        parts = text.split("\n---", 1) if text.startswith("---\n") else [""]
        value = yaml.safe_load(parts[0].removeprefix("---\n"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def check_same(folder, recorded, what):
    """UserError unless the model folder holds the weights that `what` (a policy folder) was trained from.

    A folder without manifest.json (not of the model stage) cannot be told and passes.
    """
    if not (Path(folder) / "manifest.json").is_file() or not recorded:
        return
    if _weights(Path(folder)) != recorded["weights_sha256"]:
        raise UserError(f"{folder}: other weights than {what} was trained from ({recorded['id']}); give that model with --model")


def _weights(folder):
    """SHA-256 over the names and hashes of the weight files, read from the manifest."""
    outputs = read_json(folder / "manifest.json").get("outputs", {})
    return sha256_json({name: value for name, value in outputs.items() if name.endswith((".safetensors", ".bin"))})
