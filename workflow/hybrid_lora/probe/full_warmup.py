"""Full fine-tuning that hybrid-4 starts from (Table 2): as the probe's warm-up, but the weights themselves are trained.

The result is a plain Hugging Face folder in float32. As the paper says, this costs the memory of full fine-tuning.
"""

import torch

from hybrid_lora.common import code, manifest
from hybrid_lora.common.files import directory_artifact, write_json
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import history, weights
from hybrid_lora.modeling import candidates, load, loss
from hybrid_lora.probe import loop

ENTRY = "hybrid_lora.probe.full_warmup"


def run(settings, model_folder, train, out, state):
    """settings: {warmup: shared options of the probe's training, full: {learning_rate, weights: all | candidates}}."""
    options = settings["warmup"] | {"learning_rate": settings["full"]["learning_rate"]}
    inputs = {"model": model_folder / "manifest.json", "train": train}
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    encoded = loop.encode(words, train, options)
    model = load.model(model_folder, "float32")  # a bf16 step at 1e-6 would be lost
    names = {c.module for c in candidates.find(model)}
    if settings["full"]["weights"] == "candidates":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] in names)
    loss.check(model.to(load.device()))
    load.set_checkpointing(model, options["gradient_checkpointing"])
    records = _train(model, encoded, words.pad_token_id, options, work)
    load.set_checkpointing(model, False)
    with directory_artifact(out) as folder:
        model.save_pretrained(folder)
        history.write(folder / "history.parquet", records)
        files = sorted(folder.iterdir())
        extra = {"model": weights.of_model(model_folder)}
        about = manifest.describe("probe.full_warmup", settings, inputs, code.sources(ENTRY), files, **extra)
        write_json(folder / "manifest.json", about)
    close_state(work)


def _train(model, encoded, pad_id, options, work):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=options["learning_rate"], weight_decay=options["weight_decay"])
    model.train()

    def update(step, rows):
        chosen = encoded.batch(rows)
        value = loop.backward(model, chosen, pad_id, options, autocast=options["dtype"] == "bfloat16")
        optimizer.step()
        optimizer.zero_grad()
        return value

    def restore(saved):
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved[name])

    def state():
        return {name: parameter.detach() for name, parameter in trained.items()}

    return loop.run("full warm-up", options, len(encoded), work, [optimizer], update, state, restore)
