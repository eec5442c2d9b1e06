"""AdaLoRA on every candidate (criterion adalora of Table 1): the rank that a module keeps under a shrinking rank budget.

The paper ranks modules by "allocated rank" after AdaLoRA's adaptive allocation and gives no settings. This is PEFT's AdaLoRA:
update B diag(E) A, E = 0 at first, A, B ~ N(0, 0.02); triplet score s(E) + mean s(A) + mean s(B), where s is the running mean
of |w grad w| times that of its deviation; the budget of triplets over all modules falls cubically from initial_rank to
target_rank a module, between initial_share of the steps and final_share before their end. Then the ranks are final and the
rest of the steps trains what is left. PEFT's scaling is lora_alpha / (init_r + 1e-5), as in AdaLoRA's code; lora_alpha is
initial_rank here, so the update is added as it is.

PEFT's pruning drops every triplet whose score is not above that of the best one to drop, so with ties the ranks sum to less
than the budget, and a module may keep none. A dropped triplet has E = 0 but is trained on, and comes back if it scores higher
at a later pruning, as in AdaLoRA. The penalty, the mean of |A A^T - I| and |B^T B - I| over all A and B, is PEFT's, too: PEFT
adds it to the loss that the causal language model's forward pass returns, which is replaced here by one that makes logits of
the target tokens only.
"""

from dataclasses import dataclass

import torch
from peft import AdaLoraConfig, get_peft_model
from peft.tuners.adalora import AdaLoraLayer
from transformers.utils import ModelOutput

from hybrid_lora.common import code
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.common.state import close_state, open_state
from hybrid_lora.modeling import candidates, load, loss
from hybrid_lora.probe import importances, loop

ENTRY = "hybrid_lora.probe.adalora"
ADAPTER = "default"  # PEFT's name for the one adapter


def run(settings, model_folder, train, out, state):
    """settings: {warmup, adalora} of config `probes`; writes importance.parquet, history.parquet, manifest.json into `out`.

    value is the number of triplets left, importance the mean score of all triplets of the module at the final pruning.
    """
    options, inputs = settings["warmup"], {"model": model_folder / "manifest.json", "train": train}
    timing = schedule(settings["adalora"], options["steps"])
    work = open_state(state, settings, inputs.values(), code.sources(ENTRY))
    words = load.tokenizer(model_folder)
    encoded = loop.encode(words, train, options)
    model = load.model(model_folder, options["dtype"])
    loss.check(model)
    load.set_checkpointing(model, options["gradient_checkpointing"])
    found = candidates.find(model)
    adapted = attach(model, found, settings["adalora"], timing, options["seed"]).to(load.device())
    pruning = Pruning(adapted)
    records = _train(adapted, pruning, encoded, words.pad_token_id, options, work)
    rows = [
        {
            "module": c.module,
            "layer": c.layer,
            "type": c.type,
            "value": rank,
            "importance": pruning.scores[c.module].mean().item(),
        }
        for c in found
        for rank in [pruning.ranks()[c.module]]
    ]
    importances.publish(out, "adalora", settings, inputs, rows, records)
    close_state(work)


def schedule(entry, steps):
    """PEFT's {tinit, tfinal, deltaT, total_step} for config `probes.*.adalora` and this number of steps.

    UserError where nothing could be pruned: the last pruning is at step total_step - tfinal, after scores of earlier steps.
    """
    first, last = round(entry["initial_share"] * steps), steps - round(entry["final_share"] * steps)
    if entry["initial_rank"] <= entry["target_rank"]:
        raise UserError(
            f"probes.*.adalora.initial_rank is {entry['initial_rank']}, must be more than target_rank, {entry['target_rank']}"
        )
    if last <= max(first, 1):
        raise UserError(
            f"probes.*.warmup.steps is {steps}: with adalora.initial_share {entry['initial_share']} and final_share "
            f"{entry['final_share']} pruning would end at step {last}; it must be after step {max(first, 1)}"
        )
    return {"tinit": first, "tfinal": steps - last, "deltaT": entry["interval"], "total_step": steps}


def attach(model, found, entry, timing, seed):
    """PEFT model with AdaLoRA on exactly the candidates `found` of `model`, all else frozen; its weights are float32.

    timing: of `schedule`. The initial draw depends on `seed` alone and leaves torch's own generator as it was.
    """
    names = [candidate.module for candidate in found]
    config = AdaLoraConfig(
        init_r=entry["initial_rank"],
        target_r=entry["target_rank"],
        lora_alpha=entry["initial_rank"],
        beta1=entry["beta1"],
        beta2=entry["beta2"],
        orth_reg_weight=entry["orthogonality"],
        target_modules=names,
        task_type="CAUSAL_LM",
        bias="none",
        **timing,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "adalora-init"))
        adapted = get_peft_model(model, config)  # its adapters are float32 whatever the model's dtype
    for name, parameter in adapted.named_parameters():
        if ".lora_" not in name:  # on a bfloat16 model PEFT 0.21.2 leaves `ranknum`, the divisor of the scale, trainable
            parameter.requires_grad_(False)
    wrapped = {name for name, module in model.named_modules() if isinstance(module, AdaLoraLayer)}
    if wrapped != set(names):
        other = sorted(wrapped ^ set(names))[0]
        raise UserError(f"{type(model).__name__}: PEFT's AdaLoRA took other modules than the candidates, first {other}")
    model.forward = _forward(model)
    return adapted


@dataclass
class Measured(ModelOutput):
    """What the replaced forward pass returns; PEFT adds its penalty to `loss`."""

    loss: torch.Tensor | None = None
    nll: float | None = None
    tokens: int | None = None


def _forward(model):
    def forward(input_ids, labels, targets, **_unused):
        batch = {"input_ids": input_ids, "labels": labels, "targets": targets}
        value, tokens = loss.next_token_loss(model, batch)
        return Measured(loss=value, nll=value.item(), tokens=tokens)

    return forward


class Pruning:
    """PEFT's rank allocation, with the scores at the final pruning and a state that can be saved."""

    AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")

    def __init__(self, adapted):
        self.tuner, self.config = adapted.base_model, adapted.peft_config[ADAPTER]
        self.scores = {}

    def step(self, number):
        """Update the averages with the gradients at hand, and prune where it is time; number: of the step, from 1."""
        if number == self.config.total_step - self.config.tfinal:
            self.scores = self.triplet_scores()  # PEFT forgets the averages right after the final pruning
        self.tuner.update_and_allocate(number)

    def triplet_scores(self):
        """{module: scores of its triplets, [initial rank] float32 tensor on the CPU} by the averages as they are."""
        allocator, found = self.tuner.rankallocator, {}
        for pattern in allocator.name_set:  # e.g. model.layers.0.self_attn.q_proj.%s.default
            e_R1, a_RI, b_OR = (
                allocator.exp_avg_ipt[name] * allocator.exp_avg_unc[name]
                for name in (pattern % "lora_E", pattern % "lora_A", pattern % "lora_B")
            )
            found[_module(pattern, "%s")] = (e_R1.view(-1) + a_RI.mean(dim=1) + b_OR.mean(dim=0)).cpu()
        return found

    def ranks(self):
        """{module: number of triplets that the last pruning left}, the initial rank before the first one."""
        if not self.config.rank_pattern:
            return {_module(name, "%s"): self.config.init_r for name in self.tuner.rankallocator.name_set}
        return {_module(name, "lora_E"): sum(kept) for name, kept in self.config.rank_pattern.items()}

    def state(self):
        """Averages, pattern and scores for torch.save."""
        averages = {name: getattr(self.tuner.rankallocator, name) for name in self.AVERAGES}
        return averages | {"rank_pattern": self.config.rank_pattern, "scores": self.scores}

    def load_state(self, saved):
        """Put back what `state` gave."""
        for name in self.AVERAGES:
            setattr(self.tuner.rankallocator, name, {n: t.to(load.device()) for n, t in saved[name].items()})
        self.config.rank_pattern, self.scores = saved["rank_pattern"], saved["scores"]


def _module(name, part):
    return name.removesuffix(f".{part}.{ADAPTER}")


def _train(adapted, pruning, encoded, pad_id, options, work):
    """Records {step, elapsed_s, loss: next-token loss, orthogonality: the weighted penalty, rank: mean over modules}."""
    weights = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=options["learning_rate"], weight_decay=options["weight_decay"])
    adapted.train()

    def update(step, rows):
        parts = []

        def forward(model, batch):
            found = model(**batch)
            parts.append(found)
            return found.loss, found.tokens

        # Each part's loss holds the whole penalty; parts are weighted by their share of tokens, so it counts once.
        total = loop.backward(adapted, encoded.batch(rows), pad_id, options, forward)
        nll = sum(part.nll * part.tokens for part in parts) / sum(part.tokens for part in parts)
        optimizer.step()
        pruning.step(step + 1)
        optimizer.zero_grad()
        ranks = pruning.ranks()
        return {"loss": nll, "orthogonality": total - nll, "rank": sum(ranks.values()) / len(ranks)}

    def state():
        return {"weights": {name: p.detach() for name, p in weights.items()}, "pruning": pruning.state()}

    def restore(saved):
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(saved["weights"][name])
        pruning.load_state(saved["pruning"])

    return loop.run("AdaLoRA", options, len(encoded), work, [optimizer], update, state, restore)
