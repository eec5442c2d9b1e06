"""AdamW with one rate for weights trained in full and one for LoRA (Section 4.3), for any Hugging Face Trainer."""

import torch

from hybrid_lora.modeling import hybrid


class TwoRates:
    """Trainer mixin: `learning_rates` = {full, lora} must be set before training; schedules scale both alike."""

    learning_rates: dict

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

    def log(self, logs, *args, **kwargs):
        """Add both learning rates to what the Trainer logs."""
        for group in self.optimizer.param_groups if self.optimizer and "loss" in logs else ():
            logs[f"learning_rate_{group['name']}"] = group["lr"]
        super().log(logs, *args, **kwargs)
