"""The probe on every supported decoder: same loss and gradients as plain autograd through Eq. 7, branch by branch."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import batches, load, loss, svd_lora
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import chunks, partition, perturbation, sensitivity

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
FAMILIES = {
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,  # caps logits and attention's scores
    "gemma3": Gemma3TextConfig,
    "cohere": CohereConfig,  # scales logits; attention and MLP read the same input
    "granite": GraniteConfig,  # scales logits, residuals and attention
}
KEYS = {"granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5}}
ROWS = [(list(range(5, 29)), 7), (list(range(40, 58)), 3), (list(range(60, 91)), 12)]


@pytest.fixture(params=FAMILIES)
def probe(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[request.param](**SHAPE, **KEYS.get(request.param, {}))).eval()
    for name, parameter in model.named_parameters():  # transformers starts biases at zero; a test needs to see them
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    loss.check(model)
    branches = svd_lora.attach(model, 4, {"method": "adalora", "e": 1.0, "alpha": 0.7}, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for branch in branches.values():
            branch.B.normal_(std=0.3, generator=generator)
            branch.e.normal_(generator=generator)
    return model.to(load.device()), branches


def plain_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sensitivity_and_perturbation(probe, checkpointing):
    model, branches = probe
    batch, bucket = batches.collate(ROWS, 0, load.device()), partition.bucket_a(list(branches), 0, 0, 0.5)
    twin = copy.deepcopy(model)
    theirs = {name: twin.get_submodule(name) for name in branches}
    losses = []
    for active in (set(branches) - bucket, bucket):
        svd_lora.set_active(theirs, active)
        losses.append(plain_loss(twin, batch))
        losses[-1].backward()
    load.set_checkpointing(model, checkpointing)
    with chunks.deterministic(), measuring(model, branches) as halves:
        gradients, loss_a, loss_b, tokens = sensitivity.launch(model, batch, bucket, halves)()
        again = sensitivity.launch(model, batch, bucket, halves)()
        removed, whole, _ = perturbation.measure(model, branches, batch)
    assert tokens == sum(len(ids) - prompt for ids, prompt in ROWS)
    assert [loss_a, loss_b] == pytest.approx([value.item() for value in losses], rel=1e-5)
    for name in branches:
        torch.testing.assert_close(gradients[name], theirs[name].e.grad.cpu(), rtol=2e-4, atol=1e-6)
        assert torch.equal(again[0][name], gradients[name])
    svd_lora.set_active(theirs, set(branches))
    with torch.no_grad():
        assert whole == pytest.approx(plain_loss(twin, batch).item(), rel=1e-5)
        svd_lora.set_active(theirs, set(list(branches)[1:]))
        assert removed[0] == pytest.approx(plain_loss(twin, batch).item() - whole, abs=5e-6)


def test_other_architectures_are_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(UserError, match="GPT2LMHeadModel: layer 0 must hold the linears q_proj"):
        svd_lora.attach(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)), 4, {}, 0)
