"""The loss in parts: equal to cross entropy over all logits at once, in value and gradient, and no such logits are made."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from hybrid_lora.common.errors import UserError
from hybrid_lora.modeling import batches, load, loss

TOKENS, WIDTH, VOCABULARY = 300, 8, 50


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(loss, "ELEMENTS", {"cpu": 1})  # 128 tokens at a time, the least


@pytest.fixture
def problem():
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=True).double()
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    return hidden, head, torch.randint(0, VOCABULARY, (TOKENS,))


def expected(hidden, head, targets, softcap, scale=None):
    logits = head(hidden) * (scale or 1)
    return F.cross_entropy(softcap * (logits / softcap).tanh() if softcap else logits, targets)


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("frozen", [True, False])
def test_value_and_gradient(problem, frozen, softcap, scale):
    hidden, head, targets = problem
    head.requires_grad_(not frozen)
    wanted = [hidden, *([] if frozen else head.parameters())]
    theirs = expected(hidden, head, targets, softcap, scale)
    gradients = torch.autograd.grad(3 * theirs, wanted)
    ours = loss.mean_nll(hidden, head, targets, softcap, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for found, one in zip(torch.autograd.grad(3 * ours, wanted), gradients, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-9, atol=1e-14)


def test_without_gradient(problem):
    hidden, head, targets = problem
    with torch.no_grad():
        torch.testing.assert_close(
            loss.mean_nll(hidden, head, targets), expected(hidden, head, targets, None), rtol=1e-12, atol=0
        )


def test_bfloat16_logits_are_summed_in_float32(problem):
    hidden, head, targets = problem
    head.requires_grad_(False)
    low = loss.mean_nll(hidden.bfloat16(), head.bfloat16(), targets)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(expected(hidden.bfloat16().float(), head.float(), targets, None).item(), rel=2e-3)


def test_no_logits_of_all_tokens(problem, monkeypatch):
    hidden, head, targets = problem
    head.requires_grad_(False)
    real, rows = F.linear, []
    monkeypatch.setattr(loss.F, "linear", lambda x, *args: rows.append(len(x)) or real(x, *args))
    loss.mean_nll(hidden, head, targets).backward()
    assert rows == [128, 128, 44]


SCALED = {
    "logit_scale": ("Cohere", 0.5),
    "logits_scaling": ("Granite", 8.0),
    "lm_head_multiplier": ("Llama", 3.0),
}


@pytest.mark.parametrize("key", SCALED)
def test_scaled_logits(key, monkeypatch):
    """Cohere multiplies the LM head's output, Granite divides it; where only the configuration says so, the loss is refused."""
    name, value = SCALED[key]
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(transformers, f"{name}Config")(**shape, num_key_value_heads=2, pad_token_id=0)
    setattr(config, key, value)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if name == "Llama":
        with pytest.raises(UserError, match=r"^LlamaForCausalLM: its logits are not those of its LM head and cap or scale"):
            loss.check(model)
        return
    loss.check(model)
    row = (list(range(5, 29)), 7)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row[0]])).logits[0, 6:-1]
        ours, _ = loss.next_token_loss(model, batches.collate([row], 0))
    assert ours.item() == pytest.approx(F.cross_entropy(logits, torch.tensor(row[0][7:])).item(), rel=1e-5)
    monkeypatch.setattr(loss, "SCALES", {})
    with pytest.raises(UserError, match=f"^{type(model).__name__}: its logits are not"):
        loss.check(model)


def test_padding_is_no_part_of_it(model_folder):
    """No attention mask is given to the decoder: a causal one never looks at what is right of a target."""
    model = load.model(model_folder)
    long, short = (list(range(3, 40)), 5), (list(range(50, 71)), 9)
    with torch.no_grad():
        alone = [loss.next_token_loss(model, batches.collate([row], 0)) for row in (long, short)]
        value, tokens = loss.next_token_loss(model, batches.collate([long, short], 0))
    assert tokens == sum(count for _, count in alone) == 32 + 12
    assert value.item() == pytest.approx(sum(v.item() * n for v, n in alone) / tokens, rel=1e-6)


def test_doubled_batch_has_each_half_by_itself(model_folder):
    model = load.model(model_folder)
    batch = batches.collate([(list(range(3, 40)), 5), (list(range(50, 71)), 9)], 0)
    with torch.no_grad():
        whole, tokens = loss.next_token_loss(model, batch)
        halves, each = loss.next_token_losses(model, batches.doubled(batch), 2)
    assert each == tokens
    assert [half.item() for half in halves] == pytest.approx([whole.item()] * 2, rel=1e-6)
