"""What every model folder gets: modules.json (the candidates) and manifest.json (the file that rules track)."""

from hybrid_lora.common import code, manifest
from hybrid_lora.common.files import write_json
from hybrid_lora.contracts import modules
from hybrid_lora.modeling import candidates, load


def describe(folder, model_id, revision, stage, settings, inputs):
    """Write modules.json and, last, manifest.json into a finished Hugging Face folder.

    The manifest holds the hash of every file, weights included: it stands for the folder in Snakemake's eyes.
    """
    model = load.shape(folder)
    identity = {"id": model_id, "revision": revision, "architecture_sha256": candidates.architecture_sha256(model)}
    modules.write(
        folder / "modules.json", identity, sum(p.numel() for p in model.parameters()), [vars(c) for c in candidates.find(model)]
    )
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    write_json(folder / "manifest.json", manifest.describe(stage, settings, inputs, code.sources(f"hybrid_lora.{stage}"), files))
