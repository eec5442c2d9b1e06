"""The mean reward on held-out prompts, by the engine, the graders and the weights that training has."""

import torch

from hybrid_lora.objectives import rewards


class MeanReward:
    """A function without arguments: (mean weighted reward of one sampled answer to each row's prompt, answers left out), the
    same on all processes.

    trainer: a GRPOTrainer; rows: corpus rows that can be verified. Answers that the grader could not judge are left out; the
    mean is None where it could judge none.
    """

    def __init__(self, trainer, rows):
        self.trainer, self.rows = trainer, rows

    def __call__(self):
        trainer, args = self.trainer, self.trainer.args
        share = -(-len(self.rows) // args.world_size)
        first = args.process_index * share
        # Engines want all processes to ask alike; answers beyond the rows do not count.
        mine = [self.rows[i % len(self.rows)] for i in range(first, first + share)]
        counted = max(0, min(share, len(self.rows) - first))
        values = []
        size = args.per_device_train_batch_size * args.steps_per_generation
        for start in range(0, share, size):
            values += self._scored(mine[start : start + size])
        given = [value for value in values[:counted] if value is not None]
        sums = torch.tensor([sum(given), len(given)], dtype=torch.float64, device=args.device)
        total, number = trainer.accelerator.reduce(sums, reduction="sum").tolist()
        return total / number if number else None, len(self.rows) - int(number)

    def _scored(self, rows):
        trainer = self.trainer
        prompt_ids, _, _ = trainer._tokenize_prompts([row["messages"][:-1] for row in rows])
        ids, _ = trainer._generate_single_turn(prompt_ids, None, {}, 1)
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        columns = {
            "completions": texts,
            "completion_ids": ids,
            "row_kind": [rewards.kind(row) for row in rows],
            "gold": [row["gold"] for row in rows],
            "tests": [row["tests"] for row in rows],
        }
        parts = zip(*(function(**columns) for function in trainer.reward_funcs))
        weights = trainer.reward_weights.tolist()
        return [None if None in row else sum(w * r for w, r in zip(weights, row)) for row in parts]
