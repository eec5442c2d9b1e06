"""GRPO's and GSPO's losses written down once more, from the paper's formulas alone, for tests to compare TRL with."""

import torch


def advantages(rewards, mode, epsilon):
    """One group's list of rewards -> list. eq18: population variance + epsilon under the root; trl: Bessel's, + 1e-4 outside."""
    mean = sum(rewards) / len(rewards)
    squares = sum((r - mean) ** 2 for r in rewards)
    if mode == "eq18":
        deviation = (squares / len(rewards) + epsilon) ** 0.5
    else:
        deviation = (squares / (len(rewards) - 1)) ** 0.5 + 1e-4
    return [(r - mean) / deviation for r in rewards]


def log_probs(model, prompt, prompt_mask, completion, completion_mask):
    """Log-probability of every completion token [sequences, tokens] by a plain softmax over all logits."""
    ids, mask = torch.cat([prompt, completion], 1), torch.cat([prompt_mask, completion_mask], 1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, prompt.shape[1] - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, completion[..., None])[..., 0]


def k3(new, reference):
    """KL to the reference by token, Schulman's k3: r - log r - 1 with r = reference / new."""
    difference = reference - new
    return difference.exp() - difference - 1


def loss(algorithm, new, old, reference, advantage, mask, clip, kl):
    """Mean over sequences of the mean over their tokens of -min(ratio A, clipped ratio A) + kl k3, one sequence at a time."""
    total = 0.0
    for n, o, r, a, m in zip(new, old, reference, advantage, mask.bool(), strict=True):
        n, o, r = n[m], o[m], r[m]
        if algorithm == "grpo":
            ratio = (n - o).exp()
            surrogate = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()
        else:  # (product of the tokens' ratios) ** (1 / length)
            ratio = ((n - o).sum() / len(n)).exp()
            surrogate = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
        total = total - surrogate + kl * k3(n, r).mean()
    return total / len(new)
