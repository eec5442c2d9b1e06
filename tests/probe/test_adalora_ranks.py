"""AdaLoRA's rank allocation on two linears, worked by hand."""

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model

from hybrid_lora.probe import adalora


class Two(torch.nn.Module):
    """Two linears of unlike shapes: a [1, 2], b [2, 1]."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 2, bias=False)


# Weights are all 2, so that I = |w g| is 4 for a gradient of 2 or -2. With both betas 1/2 and the scores of a weight after two
# steps, by hand: (I1, I2) = (4, 0) gives EMA 1, deviation 1, score 1; (0, 4) gives 2 * 1 = 2; (4, 4) gives 3 * 1 = 3.
NONE, ONE, TWO, THREE = (0, 0), (2, 0), (0, -2), (-2, 2)
TOY = {  # parameter: gradients of its entries in the two steps
    "a.lora_E.default": [[ONE], [TWO]],
    "a.lora_A.default": [[TWO, NONE], [THREE, ONE]],
    "a.lora_B.default": [[THREE, NONE]],
    "b.lora_E.default": [[ONE], [NONE]],
    "b.lora_A.default": [[NONE], [ONE]],
    "b.lora_B.default": [[ONE, NONE], [THREE, NONE]],
}


@pytest.mark.parametrize(
    "change, scores, ranks",
    [
        # a: 1 + (2 + 0) / 2 + 3 = 5, 2 + (3 + 1) / 2 + 0 = 4; b: 1 + 0 + (1 + 3) / 2 = 3, 0 + 1 + 0 = 1. Two are to go: 1 and 3.
        ({}, {"a": [5, 4], "b": [3, 1]}, {"a": 2, "b": 0}),
        # b's first triplet is 4 now, and so is a's second: PEFT drops ties all together, 1 rank is left of a budget of 2.
        ({"b.lora_E.default": [[TWO], [NONE]]}, {"a": [5, 4], "b": [4, 1]}, {"a": 1, "b": 0}),
    ],
)
def test_ranks_and_scores_worked_by_hand(change, scores, ranks):
    config = AdaLoraConfig(
        init_r=2, target_r=1, tinit=0, tfinal=1, deltaT=9, total_step=4, beta1=0.5, beta2=0.5, target_modules=["a", "b"]
    )
    adapted = get_peft_model(Two(), config)
    pruning = adalora.Pruning(adapted)
    assert pruning.ranks() == {"a": 2, "b": 2}
    parameters = dict(adapted.base_model.model.named_parameters())
    for step in (1, 2, 3):  # the last pruning is at step 3 and does not look at that step's gradients
        for name, gradients in (TOY | change).items():
            parameters[name].data.fill_(2.0)
            parameters[name].grad = torch.tensor([[float((*g, 99)[step - 1]) for g in row] for row in gradients])
        pruning.step(step)
    assert {name: value.tolist() for name, value in pruning.scores.items()} == scores
    assert pruning.ranks() == ranks
    assert parameters["b.lora_E.default"].tolist() == [[0.0], [0.0]]
