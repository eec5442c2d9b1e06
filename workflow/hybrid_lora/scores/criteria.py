"""Every criterion: what it is computed from, its formula, and which end of it goes to full fine-tuning first.

mu and sigma are the mean and the population standard deviation over batches (Eq. 15), float64 arrays [modules].
`ascending` means: the lowest score goes to full fine-tuning first, as the paper does for all LoRA-side criteria;
hybrid-4 scores full fine-tuning itself and prunes its lowest modules to LoRA, so the highest go first.

Guards: where sigma = 0, mu / sigma is +inf for mu > 0 (perfectly steady: LoRA serves it) and 0 for mu = 0; where mu = 0,
sigma / mu is 0, as sigma is 0 too (sensitivities are never negative).
"""

from dataclasses import dataclass

import numpy as np

from hybrid_lora.common.seeds import derive


@dataclass(frozen=True)
class Criterion:
    """source: kind of file it reads (None: none); score: of (mu, sigma), or None where the file holds it already."""

    source: str | None
    score: object
    direction: str = "ascending"


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


def mean(mu, sigma):
    """mu: Eq. 9's change of the validation loss, averaged over batches; signed, a harmful branch is below zero."""
    return mu


def share(mu, sigma):
    """LoRA-drop's importance g / sum g: a module's share of all output energy; 0 where no branch puts anything out."""
    total = mu.sum()
    return mu / total if total > 0 else np.zeros_like(mu)


CRITERIA = {
    "hybrid": Criterion("sensitivity", hybrid),
    "hybrid-1": Criterion("sensitivity", hybrid_1),
    "hybrid-2": Criterion("sensitivity", hybrid_2),
    "hybrid-3": Criterion("sensitivity", hybrid_3),
    "hybrid-4": Criterion("full-sensitivity", hybrid, "descending"),
    "alpha": Criterion("warmup", None),  # |alpha| (Eq. 8)
    "perturbation": Criterion("perturbation", mean),
    "adalora": Criterion("adalora", None),  # rank left
    "autolora": Criterion("autolora", None),  # |alpha| or rank count
    "lora-drop": Criterion("outputs", share),
    "random": Criterion(None, None),  # control
    "inverted": Criterion("sensitivity", hybrid, "descending"),  # control: H with the highest first
}


def random(modules, seed):
    """Control: a uniform draw per module from (seed, its name), float64 [modules]."""
    return np.array([np.random.default_rng(derive(seed, "random-score", name)).random() for name in modules])


def ranks(scores, direction, importance=None):
    """Ranks from 1 (first to full fine-tuning).

    Ties of the score, massive among integer ranks, go by the criterion's mean importance where there is one, in the
    same direction; what still ties keeps the given order, which is by layer, then type.
    """
    sign = 1 if direction == "ascending" else -1
    second = np.zeros(len(scores)) if importance is None else sign * importance
    order = np.lexsort((np.arange(len(scores)), second, sign * scores))
    result = np.empty(len(scores), dtype=np.int32)
    result[order] = np.arange(1, len(scores) + 1)
    return result
