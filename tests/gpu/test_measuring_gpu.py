"""The probe's fused path on a GPU: kernels against torch, same numbers as the plain path, same bits on every run."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from hybrid_lora.contracts import sensitivity as dumps
from hybrid_lora.modeling import batches, load, svd_lora
from hybrid_lora.modeling.measuring import measuring
from hybrid_lora.probe import chunks, partition, sensitivity, warmup

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
FAMILIES = {
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3": Gemma3TextConfig,
}
NORMS = {"qwen3": 9}  # q and k have one each
WARMUP = {
    "rank": 4,
    "init": {"method": "lora", "e": 1.0, "alpha": 1.0},
    "warmup": {
        "objective": "nll",
        "steps": 4,
        "batch_size": 4,
        "device_batch_size": 4,
        "learning_rate": 0.01,
        "schedule": "constant",
        "weight_decay": 0.0,
        "max_length": 64,
        "save_every": 2,
        "gradient_checkpointing": True,
        "seed": 0,
        "dtype": "bfloat16",
    },
}
SENSITIVITY = {"batch_size": 3, "probability": 0.5, "max_length": 64, "seed": 0, "dtype": "bfloat16"}


def built(family, dtype, **shape):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**SHAPE | shape)).to(dtype)
    branches = svd_lora.attach(model, 4, {"method": "adalora", "e": 1.0, "alpha": 0.7}, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for branch in branches.values():
            branch.B.normal_(std=0.1, generator=generator)
    return model.cuda().eval(), branches


def batch():
    generator = torch.Generator().manual_seed(2)
    rows = [(torch.randint(0, 512, (90 - 13 * i,), generator=generator).tolist(), 5 + i) for i in range(4)]
    return batches.collate(rows, 0, "cuda")


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_equals_plain(family):
    model, branches = built(family, torch.float32)
    bucket, found = partition.bucket_a(list(branches), 0, 0, 0.5), []
    for fuse in (False, True):
        with chunks.deterministic(), measuring(model, branches, fuse=fuse) as halves:
            if fuse and not family.startswith("gemma"):  # gelu, and norms of 1 + weight, stay transformers' own
                patched = [m for m in model.modules() if "forward" in vars(m) and not isinstance(m, svd_lora.SVDLoRALinear)]
                assert len(patched) == NORMS.get(family, 5) + 2
            found.append(sensitivity.launch(model, batch(), bucket, halves)())
    assert found[1][1:3] == pytest.approx(found[0][1:3], rel=1e-5)
    for name in branches:
        torch.testing.assert_close(found[1][0][name], found[0][0][name], rtol=1e-3, atol=1e-6)
    assert not any("forward" in vars(m) for m in model.modules())


def test_heads_of_other_sizes_rotate_as_in_transformers():
    """The kernel wants powers of two; 80 and 96 are common."""
    model, branches = built("llama", torch.float32, head_dim=48)
    bucket, found = partition.bucket_a(list(branches), 0, 0, 0.5), []
    for fuse in (False, True):
        with chunks.deterministic(), measuring(model, branches, fuse=fuse) as halves:
            found.append(sensitivity.launch(model, batch(), bucket, halves)())
    for name in branches:
        torch.testing.assert_close(found[1][0][name], found[0][0][name], rtol=1e-3, atol=1e-6)


def test_same_bits_on_every_run_and_with_checkpointing():
    model, branches = built("qwen2", torch.bfloat16)
    one, bucket = batch(), partition.bucket_a(list(branches), 0, 0, 0.5)
    with chunks.deterministic(), measuring(model, branches) as halves:
        found = []
        for on in (False, False, True, False):
            load.set_checkpointing(model, on)
            found.append(sensitivity.launch(model, one, bucket, halves)())
    for other in found[1:]:
        assert other[1:] == found[0][1:]
        assert all(torch.equal(other[0][name], found[0][0][name]) for name in branches)


def test_swiglu_kernel():
    from hybrid_lora.modeling import kernels

    gate, up, dout = (torch.randn(3, 5, 1000, device="cuda", dtype=torch.float64) for _ in range(3))
    expected = torch.func.vjp(lambda g, u: torch.nn.functional.silu(g) * u, gate, up)
    inputs = [t.float().requires_grad_() for t in (gate, up)]
    out = kernels.swiglu(*inputs)
    torch.testing.assert_close(out.double(), expected[0], rtol=1e-5, atol=1e-6)
    for found, wanted in zip(torch.autograd.grad(out, inputs, dout.float()), expected[1](dout), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_rotary_kernel():
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    from hybrid_lora.modeling import kernels

    q, k = (torch.randn(2, 17, heads, 64, device="cuda").transpose(1, 2).requires_grad_() for heads in (6, 2))
    angle = torch.randn(1, 17, 32, device="cuda")
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    for rows in (1, 2):  # one table for the batch, or one a sequence
        ours, theirs = (
            f(q, k, cos.expand(rows, -1, -1), sin.expand(rows, -1, -1)) for f in (kernels.rotate, apply_rotary_pos_emb)
        )
        weights = [torch.randn_like(t) for t in theirs]
        gradients = [torch.autograd.grad([(t * w).sum() for t, w in zip(side, weights)], [q, k]) for side in (ours, theirs)]
        for a, b in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="unsqueeze_dim 2"):
        kernels.rotate(q, k, cos, sin, unsqueeze_dim=2)


def test_a_dump_is_the_same_in_any_chunking(model_folder, corpus_files, tmp_path):
    """Warm-up and measurement as jobs run them, bf16 base, activations recomputed."""
    warmup.run(WARMUP, model_folder, corpus_files[0], tmp_path / "warmup", tmp_path / "state")
    found = {}
    for size in (1, 4):
        for chunk in range(4 // size):
            settings = SENSITIVITY | {"batches_per_chunk": size, "gradient_checkpointing": size == 4}
            out = tmp_path / f"{size}-{chunk}.parquet"
            sensitivity.run(settings, model_folder, tmp_path / "warmup", corpus_files[1], chunk, out, tmp_path / "s")
            found.setdefault(size, []).extend(dumps.read(out)[0].to_pylist())
    assert found[1] == found[4]
    assert any(row["grad"] for row in found[1])
