"""What to look at while RL runs: a warning where rewards have no variance, and samples of what the policy says."""

import sys

from transformers import TrainerCallback

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, write_json
from hybrid_lora.contracts import samples

ROW = set(samples.SCHEMA.names)


class Watch(TrainerCallback):
    """Keeps `count` completions of every `every`-th step, and says in plain words when there is nothing to learn from.

    samples: {every, count}; patience: generations without any variance before the warning; path: JSON file that the samples
    survive a kill in. `trainer` must be set before training. `rows`: dicts with the keys of contracts.samples.
    """

    def __init__(self, samples, patience, path):
        self.samples, self.patience, self.path = samples, patience, path
        self.trainer, self.rows, self.flat = None, [], 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Take up the samples of an interrupted run, up to the step it resumes from."""
        self.rows = [row for row in self._kept() if row["step"] <= state.global_step]
        self.flat = _flat(state.log_history)

    def _kept(self):
        """The file's rows; they are to be looked at only, so a damaged file does not keep a training from going on."""
        try:
            found = read_json(self.path) if self.path.exists() else []
            if isinstance(found, list) and all(row.keys() >= ROW for row in found):
                return found
            reason = "holds no list of samples"
        except (UserError, AttributeError) as error:
            reason = str(error)
        print(f"{self.path}: {reason}; earlier samples are lost", file=sys.stderr, flush=True)
        return []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """One optimizer step."""
        if "loss" not in logs:
            return
        if state.is_world_process_zero:
            self._warn(logs, state.global_step)
        if self.samples["count"] and state.global_step % self.samples["every"] == 0:
            self.rows += self._sampled(state.global_step)
            if state.is_world_process_zero:
                write_json(self.path, self.rows)  # before the checkpoint; what is of later steps a resumed run leaves out

    def _warn(self, logs, step):
        share = logs.get("frac_reward_zero_std")
        if share is None:
            return  # a step inside a window: no new completions
        self.flat = self.flat + 1 if share == 1 else 0
        if self.flat and self.flat % self.patience == 0:
            reward, unjudged = logs.get("reward"), int(logs.get("unjudged") or 0)
            mean = "no reward at all" if reward is None else f"mean reward {round(reward, 3)}"
            failed = f"the graders could not judge {unjudged} completions of the last one, " if unjudged else ""
            print(
                f"warning: at step {step} the last {self.flat} generations had no group whose rewards differ, so the policy "
                f"learns nothing from them ({mean}): {failed}the problems are too easy or too hard for it, the format is not "
                "met, or completions are cut off",
                file=sys.stderr,
                flush=True,
            )

    def _sampled(self, step):
        logs, weights = self.trainer._logs, self.trainer.reward_weights.tolist()
        rewards = [_total(weights, row) for row in zip(*logs["rewards"].values())]
        columns = list(zip(logs["prompt"], logs["completion"], rewards, logs["advantages"]))[: self.samples["count"]]
        return [
            {"step": step, "prompt": _text(prompt), "completion": _text(said), "reward": reward, "advantage": advantage}
            for prompt, said, reward, advantage in columns
        ]


def _total(weights, row):
    """The weighted reward, None where no function gave one."""
    given = [w * r for w, r in zip(weights, row) if r is not None and r == r]
    return sum(given) if given else None


def _flat(history):
    """Generations at the end of a log without any variance."""
    count = 0
    for entry in reversed(history):
        share = entry.get("frac_reward_zero_std")
        if share is not None and share != 1:
            break
        count += share == 1
    return count


def _text(messages):
    """A conversation's last message, or the text itself."""
    return messages[-1]["content"] if isinstance(messages, list) else messages
