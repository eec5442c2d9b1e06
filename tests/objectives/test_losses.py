"""TRL's losses as we configure them against our own reference implementation, in either mode of the advantages."""

import pytest
import reference
import rl_runs
import torch

from hybrid_lora.objectives.rl import RLTrainer


@pytest.mark.parametrize("advantage", ["eq18", "trl"])
@pytest.mark.parametrize("algorithm", ["grpo", "gspo"])
def test_losses_and_gradients_are_the_papers(algorithm, advantage, tmp_path, model_folder, corpus_files, monkeypatch):
    """High rates, so that ratios spread and are clipped; every micro-batch of two generations is compared."""
    compared, clipped = [], []
    compute, generate = RLTrainer._compute_loss, RLTrainer._generate_and_score_completions

    def scored(self, inputs):
        output = generate(self, inputs)
        for found, rewards in zip(output["advantages"].view(-1, 4), self._scored.view(-1, 4), strict=True):
            expected = reference.advantages(rewards.tolist(), advantage, 1e-8)
            assert found.tolist() == pytest.approx(expected, abs=1e-6, rel=1e-6)
        return output

    def both(self, model, inputs):
        loss = compute(self, model, inputs)
        mask = inputs["completion_mask"]
        new = reference.log_probs(model, inputs["prompt_ids"], inputs["prompt_mask"], inputs["completion_ids"], mask)
        arguments = (inputs["old_per_token_logps"], inputs["ref_per_token_logps"], inputs["advantages"], mask)
        ours = reference.loss(algorithm, new, *arguments, clip=0.2, kl=0.01) / self.current_gradient_accumulation_steps
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients = zip(*(torch.autograd.grad(value, weights, retain_graph=True) for value in (loss, ours)), strict=True)
        compared.append((loss.item(), ours.item(), max((a - b).abs().max().item() for a, b in gradients)))
        ratios = (new - arguments[0]).exp()[mask.bool()]
        clipped.append(((ratios - 1).abs() > 0.2).float().mean().item())
        return loss

    monkeypatch.setattr(RLTrainer, "_compute_loss", both)
    monkeypatch.setattr(RLTrainer, "_generate_and_score_completions", scored)
    change = {"algorithm": algorithm, "advantage": advantage, "learning_rate": {"full": 0.02, "lora": 0.05}}
    built, _ = rl_runs.build(model_folder, corpus_files[0], tmp_path, **change)
    built.train()
    assert len(compared) == 16  # 4 steps of 4 micro-batches
    assert max(abs(ours - loss) for loss, ours, _ in compared) < 1e-6
    assert max(difference for _, _, difference in compared) < 1e-6
    assert clipped[0] == 0 < max(clipped)


def test_reference_by_hand():
    """Two tokens, ratios 1.5 and 0.5, advantage 1, no KL: (1.2 + 0.5) / 2 for GRPO, sqrt(0.75) for GSPO."""
    new, old = torch.tensor([[1.5, 0.5]]).log(), torch.zeros(1, 2)
    arguments = (new, old, new, torch.ones(1), torch.ones(1, 2), 0.2, 0.0)
    assert reference.loss("grpo", *arguments).item() == pytest.approx(-0.85)
    assert reference.loss("gspo", *arguments).item() == pytest.approx(-(0.75**0.5))
    assert reference.k3(torch.tensor(0.5).log(), torch.tensor(1.0).log()).item() == pytest.approx(2 - 0.693147 - 1, abs=1e-5)
