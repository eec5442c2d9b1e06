"""The folder that a probe with a training of its own leaves: importance.parquet, history.parquet, manifest.json last."""

from hybrid_lora.common import code, manifest
from hybrid_lora.common.files import directory_artifact, write_json
from hybrid_lora.contracts import history, importance, modules


def publish(out, command, settings, inputs, rows, records):
    """Write the folder `out`; command: "adalora" | "autolora", which is also the criterion.

    inputs: {model: manifest.json of the model folder, train: corpus}; rows: of contracts/importance in candidate order;
    records: of the training, one a step.
    """
    identity = modules.read(inputs["model"].parent / "modules.json")["model"]
    with directory_artifact(out) as folder:
        importance.write(folder / importance.NAME, rows, {"model": identity, "criterion": command})
        history.write(folder / "history.parquet", records)
        files = [folder / importance.NAME, folder / "history.parquet"]
        extra = {"steps": len(records), "final_loss": records[-1]["loss"] if records else None}
        sources = code.sources(f"hybrid_lora.probe.{command}")
        about = manifest.describe(f"probe.{command}", settings, inputs, sources, files, **extra)
        write_json(folder / "manifest.json", about)
