"""AdamW with one rate for weights trained in full and one for LoRA (Section 4.3), for any Hugging Face Trainer."""

import torch

from hybrid_lora.modeling import hybrid


class TwoRates:
    """Trainer mixin: `learning_rates` = {full, lora} must be set before training; schedules scale both alike."""

    learning_rates: dict
    used_rates = None  # {name: rate} that the last step was made with

    def create_optimizer(self, model=None):
        """Two AdamW groups, named, so that a resumed optimizer state meets the same groups."""
        if self.optimizer is None:
            full, lora = hybrid.split_parameters(model or self.model)
            groups = [
                {"name": name, "params": params, "lr": self.learning_rates[name]}
                for name, params in (("full", full), ("lora", lora))
                if params
            ]
            on_gpu = all(weight.is_cuda for weight in full + lora)  # one kernel there instead of a dozen passes over memory
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay, fused=on_gpu)
        return self.optimizer

    def _get_learning_rate(self):
        """Asked by the Trainer after a step, before the schedule moves on."""
        self.used_rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        return super()._get_learning_rate()

    def log(self, logs, *args, **kwargs):
        """Add both learning rates of the step to what the Trainer logs."""
        if "loss" in logs and self.used_rates:
            logs |= {f"learning_rate_{name}": rate for name, rate in self.used_rates.items()}
        super().log(logs, *args, **kwargs)
