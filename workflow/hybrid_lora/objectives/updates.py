"""How one generation becomes optimizer steps, and what its probability ratios were.

Departure from TRL, which shuffles each process's completions with its global random state: here completion i goes to an
update drawn from (seed, step, i), one of every `updates` neighbours to each. The updates then hold the same completions on
any number of processes, and each update sees (nearly) every prompt.
"""

import contextlib

import torch
from trl.trainer.utils import split_tensor_dict

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.seeds import derive
from hybrid_lora.modeling.sharding import callable_inside
from hybrid_lora.modeling.trainer import diverged


def update_order(rows, updates, seed, first=0):
    """Positions of `rows` completions, ordered by the update they go to: a LongTensor.

    rows: of this process, a multiple of `updates`; first: number of completions of the processes before it.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = (first + rows) // updates
    # argsort of noise: in each block of `updates` neighbours, who goes first, second, ...
    chosen = torch.rand(blocks, updates, generator=generator).argsort(dim=1)[first // updates :]
    return (torch.arange(0, rows, updates)[:, None] + chosen).T.flatten()


REFUSED = ("probability tensor contains", "device-side assert")  # by torch on a CPU; on a GPU, whose message names no reason


@contextlib.contextmanager
def sampleable(trainer):
    """UserError where torch refuses to sample from probabilities that are not finite."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in REFUSED):
            raise
        found = "the policy's probabilities are not finite"
        raise UserError(diverged(found, trainer.state.global_step + 1, trainer.args.output_dir)) from error


class SteadyUpdates:
    """GRPOTrainer mixin: `update_order` for TRL's shuffle, transformers' sampling under the update's autocast, ratios in the log.

    `ratio/token_deviation` and `ratio/sequence_deviation`: mean |ratio - 1| of the policy to the one that sampled, by token
    (GRPO's) and by sequence (GSPO's, the geometric mean). Both are 0 on the first update of a generation: there the two
    objectives are equal.
    """

    update_seed = 0

    def _prepare_inputs(self, generation_batch):
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(self._ordered(batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _ordered(self, batch):
        rows = len(batch["advantages"])
        seed = derive(self.update_seed, "update-order", self.state.global_step)
        updates = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        order = update_order(rows, updates, seed, self.accelerator.process_index * rows)
        return {key: value[order.to(value.device)] if value.ndim else value for key, value in batch.items()}

    def _generate_single_turn(self, *arguments, **keywords):
        # What transformers samples is the policy that is updated, and frozen weights may be bf16. vLLM computes in a dtype of
        # its own, and its weights are added in float32.
        with contextlib.ExitStack() as stack:
            if not self.use_vllm:
                stack.enter_context(sampleable(self))
                stack.enter_context(self.accelerator.autocast())
                stack.enter_context(callable_inside(self.model))
            return super()._generate_single_turn(*arguments, **keywords)

    def _get_per_token_logps_and_entropies(self, *arguments, **keywords):
        found = super()._get_per_token_logps_and_entropies(*arguments, **keywords)
        if torch.is_grad_enabled():
            self._updated_logps = found[0].detach()
        return found

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if model.training and torch.is_grad_enabled():
            mask, logps = inputs["completion_mask"], self._updated_logps
            difference = (logps - inputs.get("old_per_token_logps", logps)) * mask
            length = mask.sum(-1).clamp(min=1)
            token = ((difference.exp() - 1).abs() * mask).sum(-1) / length
            sequence = ((difference.sum(-1) / length).exp() - 1).abs()
            for name, value in (("token", token), ("sequence", sequence)):
                self._metrics["train"][f"ratio/{name}_deviation"].append(self.accelerator.gather(value).mean().item())
        return loss
