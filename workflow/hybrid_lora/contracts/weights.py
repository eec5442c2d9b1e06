"""Which weights a folder of a probe's training holds, as one SHA-256: what was measured on them carries it.

Read from the folder's manifest, so that nothing large is hashed again and other files (curves, logs) do not matter.
"""

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_json


def sha256(folder):
    """Hash of all *.safetensors of the folder: the file's own where there is one, else of their names and hashes."""
    outputs = read_json(folder / "manifest.json").get("outputs", {})
    found = {name: value for name, value in outputs.items() if name.endswith(".safetensors")}
    if not found:
        raise UserError(f"{folder / 'manifest.json'}: names no .safetensors under 'outputs'; not a probe's training")
    return next(iter(found.values())) if len(found) == 1 else sha256_json(found)
