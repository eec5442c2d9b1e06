"""The random partition of the candidates of one validation batch (Eq. 10, Algorithm 1 line 5)."""

import torch

from hybrid_lora.common.seeds import derive


def bucket_a(names, seed, batch, probability):
    """Names in U_A: an independent Bernoulli(probability) draw for each name in the given order, from (seed, batch)."""
    generator = torch.Generator().manual_seed(derive(seed, "partition", batch))
    draws = torch.rand(len(names), generator=generator)
    return {name for name, draw in zip(names, draws.tolist()) if draw < probability}
