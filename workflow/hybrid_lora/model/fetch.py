"""Link a local model folder, or a hub snapshot of a pinned revision, into results/models/{model}/.

Small files are copied and weights linked: a 7B model is not stored twice.
"""

import shutil
from pathlib import Path

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import directory_artifact, write_json
from hybrid_lora.model import publish

WEIGHTS = (".safetensors", ".bin")
PATTERNS = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.jinja",
    "LICENSE*",
    "README.md",
]  # the last two: a policy's card names the licence


def run(settings, out):
    """settings: {source: hub | local, path, revision (hub)}."""
    source = _snapshot(settings) if settings["source"] == "hub" else Path(settings["path"]).expanduser()
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: not a model folder (config.json is missing)")
    with directory_artifact(out) as folder:
        for file in sorted(p for p in source.iterdir() if p.is_file() and any(p.match(x) for x in [*PATTERNS, "*.bin"])):
            if file.name in ("manifest.json", "modules.json"):
                continue
            if file.suffix in WEIGHTS:
                (folder / file.name).symlink_to(file.resolve())
            else:
                shutil.copyfile(file, folder / file.name)
        publish.describe(folder, str(settings["path"]), settings.get("revision"), "model.fetch", settings, {})


def stage(settings, out):
    """Fetch a hub model, settings: {path, revision}, to the hub's cache; `out` (JSON) tells where it is and which commit."""
    folder = _snapshot(settings)
    write_json(out, {"repo": settings["path"], "revision": settings["revision"], "commit": folder.name, "folder": str(folder)})


def _snapshot(settings):
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(settings["path"], revision=settings["revision"], allow_patterns=PATTERNS))
    except Exception as error:  # the hub's errors share no base class: network, 404, gated, offline
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"hub model {settings['path']}@{settings['revision']}: cannot be fetched ({reason})") from None
