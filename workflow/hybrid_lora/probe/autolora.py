"""AutoLoRA's bilevel search on LoRA branches (criterion autolora of Table 1): the weight that held-out data give a branch.

The paper ranks modules by AutoLoRA's "learned architecture weight alpha" and writes the branch as alpha * x A B, one alpha a
module (Eq. 6); AutoLoRA has a vector of weights a module instead, one a component, whose softmax multiplies the components.
Both are here: `weights: module` learns the scalar of Eq. 6 from 1 and scores |alpha|; `weights: rank` learns a logit a
component from 0 and scores as AutoLoRA ranks, the number of components whose softmax is at least 1/r.

The scheme is the first-order alternation of AutoLoRA's released `finetune/lora_glue.py`: a step of A and B on a batch of the
training part, then a step of Adam on the weights on a batch of the part that is held out from the training rows. AutoLoRA's
paper differentiates the held-out loss through one step of A and B, and so does its older script `run_glue_search.py`, whose
rates and betas are our defaults; here A and B count as given in the step on the weights. In `lora_glue.py` each level also
steps on what the other's batch left in its gradient, as only the own level's gradients are cleared; here A and B see training
batches alone and the weights held-out batches alone, as the paper has it.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from hybrid_lora.common import code
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import load, loss, svd_lora
from hybrid_lora.probe import importances, loop

ENTRY = "hybrid_lora.probe.autolora"
INIT = {"method": "lora", "e": 1.0, "alpha": 1.0}
WEIGHTS = ("module", "rank")
# Relative: what float32 logits cannot tell from 1/r counts as 1/r, above all components whose logits are equal, so rounding
# does not decide. It is far below what a step of Adam moves, about its rate (1e-4 and more).
TOLERANCE = 1e-6


def run(settings, model_folder, train, out, state):
    """settings: {rank, warmup, autolora} of config `probes`; writes importance.parquet, history.parquet, manifest.json to `out`.

    weights module: value and importance are |alpha|; rank: value is the number of components kept, importance the share of
    the softmax that they hold.
    """
    options, entry = settings["warmup"], settings["autolora"]
    if entry["weights"] not in WEIGHTS:
        raise UserError(f"probes.*.autolora.weights is '{entry['weights']}', must be {' or '.join(WEIGHTS)}")
    inputs = {"model": model_folder / "manifest.json", "train": train}
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    training, held = split(corpus.count(train), entry["validation_share"], options, train)
    parts = [loop.encode(words, train, *part) for part in ((options, training), (_held_out(options), held))]
    model = load.model(model_folder, options["dtype"])
    branches = attach(model, settings["rank"], entry["weights"], options["seed"])
    loss.check(model.to(load.device()))
    load.set_checkpointing(model, options["gradient_checkpointing"])
    records = _train(model, branches, parts, words.pad_token_id, options, entry, work)
    importances.publish(
        out, "autolora", settings, inputs, [_row(branch, entry["weights"]) for branch in branches.values()], records
    )
    close_state(work)


def split(total, share, options, where):
    """(numbers of the rows to train on, of those held out) of `total` by a seeded shuffle; `share`, rounded, is held out.

    UserError if a part is smaller than a batch; where: the file the rows are from.
    """
    generator = torch.Generator().manual_seed(derive(options["seed"], "autolora-split"))
    order, held = torch.randperm(total, generator=generator).tolist(), round(share * total)
    if min(held, total - held) < options["batch_size"]:
        raise UserError(
            f"{where}: probes.*.autolora.validation_share {share} leaves {total - held} rows to train on and {held} held "
            f"out, probes.*.warmup.batch_size is {options['batch_size']}"
        )
    return order[held:], order[:held]


def _held_out(options):
    """The options under which the order of held-out rows is drawn."""
    return options | {"seed": derive(options["seed"], "autolora-held-out")}


class Softmax(nn.Module):
    """e = softmax(logits), both [r], as a parametrization; e = 1, which a branch starts with, makes logits 0."""

    def forward(self, logits_R):
        """Logits -> e."""
        return logits_R.softmax(dim=0)

    def right_inverse(self, e_R):
        """Positive e -> logits of its direction."""
        return e_R.log()


def attach(model, rank, weights, seed):
    """Freeze `model` and put a branch on every candidate, of which A, B and the weights alone are trainable.

    weights: module (alpha; e is 1) | rank (the logits of e; alpha is 1). Returns {exact name: SVDLoRALinear}.
    """
    branches = svd_lora.attach(model, rank, INIT, seed)
    for branch in branches.values():
        if weights == "module":
            branch.e.requires_grad_(False)
        else:
            branch.alpha.requires_grad_(False)
            parametrize.register_parametrization(branch, "e", Softmax())
    return branches


def weight_of(branch, weights):
    """The parameter that is learned on held-out rows: alpha [] | logits [r]."""
    return branch.alpha if weights == "module" else branch.parametrizations.e.original


def kept(logits_R):
    """(number of components whose softmax is at least 1/r, the share of the softmax that they hold)."""
    share_R = logits_R.detach().double().softmax(dim=0)
    survives_R = share_R * len(share_R) >= 1 - TOLERANCE
    return int(survives_R.sum()), share_R[survives_R].sum().item()


def _row(branch, weights):
    weight, candidate = weight_of(branch, weights), branch.candidate
    value, importance = (abs(weight.item()),) * 2 if weights == "module" else kept(weight)
    where = {"module": candidate.module, "layer": candidate.layer, "type": candidate.type}
    return where | {"value": value, "importance": importance}


def _train(model, branches, parts, pad_id, options, entry, work):
    """Records {step, elapsed_s, loss: of the training batch, validation_loss: of the held-out batch after the step of A, B}."""
    training, held = parts
    matrices = {f"{name}.{part}": getattr(branch, part) for name, branch in branches.items() for part in ("A", "B")}
    weights = {f"{name}.weight": weight_of(branch, entry["weights"]) for name, branch in branches.items()}
    inner = torch.optim.AdamW(matrices.values(), lr=entry["learning_rate"], weight_decay=0.0)
    outer = torch.optim.Adam(weights.values(), lr=entry["alpha_learning_rate"], betas=tuple(entry["alpha_betas"]))
    model.train()

    def descend(optimizer, others, chosen):
        for parameter in others.values():  # no gradient is even computed for the other level
            parameter.requires_grad_(False)
        value = loop.backward(model, chosen, pad_id, options)
        optimizer.step()
        optimizer.zero_grad()
        for parameter in others.values():
            parameter.requires_grad_(True)
        return value

    def update(step, rows):
        value = descend(inner, weights, training.batch(rows))
        chosen = held.batch(loop.rows_of(step, _held_out(options), len(held)))
        return {"loss": value, "validation_loss": descend(outer, matrices, chosen)}

    def state():
        return {name: parameter.detach() for name, parameter in (matrices | weights).items()}

    def restore(saved):
        with torch.no_grad():
            for name, parameter in (matrices | weights).items():
                parameter.copy_(saved[name])

    return loop.run("AutoLoRA", options, len(training), work, [inner, outer], update, state, restore)
