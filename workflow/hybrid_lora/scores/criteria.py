"""Criteria that aggregate the probe's sensitivities, and the controls: each gives a score and a direction.

mu and sigma are the mean and the population standard deviation over batches (Eq. 15), float64 arrays [modules].
`ascending` means: the lowest score goes to full fine-tuning first.

Guards: where sigma = 0, mu / sigma is +inf for mu > 0 (perfectly steady: LoRA serves it) and 0 for mu = 0; where mu = 0,
sigma / mu is 0, as sigma is 0 too (sensitivities are never negative).
"""

import numpy as np

from hybrid_lora.common.seeds import derive


def hybrid(mu, sigma):
    """H = mu * sigma (Eq. 14)."""
    return mu * sigma


def hybrid_1(mu, sigma):
    """mu / sigma (Table 2, Hybrid-LoRA-1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma > 0, mu / sigma, np.where(mu > 0, np.inf, 0.0))


def hybrid_2(mu, sigma):
    """sigma / mu (Table 2, Hybrid-LoRA-2)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mu > 0, sigma / mu, 0.0)


def hybrid_3(mu, sigma):
    """mu + 0.5 sigma (Table 2, Hybrid-LoRA-3)."""
    return mu + 0.5 * sigma


# criterion -> (aggregation of mu and sigma, direction)
FROM_SENSITIVITY = {
    "hybrid": (hybrid, "ascending"),
    "hybrid-1": (hybrid_1, "ascending"),
    "hybrid-2": (hybrid_2, "ascending"),
    "hybrid-3": (hybrid_3, "ascending"),
    "inverted": (hybrid, "descending"),  # control: H with the highest first
}


def random(modules, seed):
    """Control: a uniform draw per module from (seed, its name), float64 [modules]."""
    return np.array([np.random.default_rng(derive(seed, "random-score", name)).random() for name in modules])


def ranks(scores, direction):
    """Ranks from 1 (first to full fine-tuning); ties keep the given order, which is by layer, then type."""
    keyed = scores if direction == "ascending" else -scores
    order = np.argsort(keyed, kind="stable")
    result = np.empty(len(scores), dtype=np.int32)
    result[order] = np.arange(1, len(scores) + 1)
    return result
