"""Group-relative advantages by Eq. 18, for TRL's GRPOTrainer, which divides by another deviation; groups without any.

Eq. 18: A = (r - mean) / sqrt(variance + epsilon), with the population variance and epsilon under the root. TRL: Bessel's
correction, and 1e-4 added to the deviation. Rewards 1, 0, 0, 0 give 1.732 and 1.500 for the first.

TRL's `frac_reward_zero_std` leaves out groups of which none or one was judged, as their deviation is not a number. Nothing is
learned from them either, so here they count.
"""

import torch


def eq18(rewards_NG, epsilon):
    """Advantages [groups, group size] of rewards of that shape; NaN (not judged) is left out of its group and gets 0.

    In float64: rewards that differ little, as those for length may, would leave but three digits of float32.
    """
    dtype, rewards_NG = rewards_NG.dtype, rewards_NG.double()
    mean_N1 = rewards_NG.nanmean(dim=1, keepdim=True)
    variance_N1 = (rewards_NG - mean_N1).square().nanmean(dim=1, keepdim=True)
    return ((rewards_NG - mean_N1) / (variance_N1 + epsilon).sqrt()).nan_to_num(nan=0.0).to(dtype)


def flat(rewards_NG):
    """Share of groups in which no two judged rewards (NaN: not judged) differ by more than what TRL takes for zero."""
    highest = rewards_NG.nan_to_num(nan=-torch.inf).amax(dim=1)
    lowest = rewards_NG.nan_to_num(nan=torch.inf).amin(dim=1)
    return (highest - lowest <= 1e-8).float().mean().item()


class GroupAdvantages:
    """GRPOTrainer mixin: advantages by Eq. 18 or as TRL computes them; `unjudged` counts completions without a verdict.

    `frac_reward_zero_std` is the share of `flat` groups.
    """

    epsilon_of_advantage = None

    def use_advantages(self, settings):
        """settings: one entry of config `objectives`, with `advantage` (eq18 | trl) and `advantage_epsilon`."""
        self.epsilon_of_advantage = settings["advantage_epsilon"] if settings["advantage"] == "eq18" else None

    def _calculate_rewards(self, *arguments, **keywords):
        self._scored = super()._calculate_rewards(*arguments, **keywords)  # of all processes, NaN where there is none
        unjudged = self._scored.isnan().all(dim=1).sum().item()
        self._metrics["train" if self.model.training else "eval"]["unjudged"].append(unjudged)
        return self._scored

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        groups = self._rewards().view(-1, self.num_generations)
        self._metrics["train" if self.model.training else "eval"]["frac_reward_zero_std"][-1] = flat(groups)
        if self.epsilon_of_advantage is not None:
            every = eq18(groups, self.epsilon_of_advantage).flatten()
            first = self.accelerator.process_index * len(output["advantages"])
            output["advantages"] = every[first : first + len(output["advantages"])]
            self._logs["advantages"].extend(every.tolist())  # in place of TRL's: it holds one generation
        return output

    def _rewards(self):
        """Weighted sums of what the reward functions gave, NaN where none of them gave anything, as TRL adds them up."""
        total = (self._scored * self.reward_weights.to(self._scored.device)).nansum(dim=1)
        return total.masked_fill(self._scored.isnan().all(dim=1), torch.nan)
