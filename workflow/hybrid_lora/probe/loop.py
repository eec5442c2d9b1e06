"""The training loop of every probe: seeded order of rows, a schedule, progress with an ETA, resumable state.

The order of the data is a function of (seed, epoch), and state is saved every `save_every` steps, so an interrupted
warm-up goes on where it was, to the same bits. So does a decoder's dropout: torch's generator is seeded anew at every step.
"""

import contextlib
import functools
import math
import time

import torch

from hybrid_lora.common import checkpoints
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.progress import Progress
from hybrid_lora.common.seeds import derive
from hybrid_lora.contracts import corpus
from hybrid_lora.modeling import batches, load, loss
from hybrid_lora.modeling.stopping import Stopping

FILE = "loop.pt"


def run(what, options, total, work, optimizers, update, state, restore):
    """Train for options["steps"] steps; returns one record a step: {step, elapsed_s, loss, ...}.

    what: name in progress and messages; options: config `probes.*.warmup`; total: number of rows; work: folder of the
    state; optimizers: their learning rates are scaled by the schedule. update(step, rows) makes one step on these row
    numbers and returns its loss or a dict with `loss`; state() gives what must survive a kill, beside the optimizers,
    as a dict for torch.save, and restore(state) puts it back. Raises UserError at a loss that is not finite, Interrupted,
    with the state saved, if stopped.
    """
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    records = _restored(what, work, optimizers, restore)
    progress = Progress(what, options["steps"], start=len(records))
    before = records[-1]["elapsed_s"] if records else 0.0
    with Stopping(alone=False) as stopping:
        for step in range(len(records), options["steps"]):
            began = time.monotonic()
            _set_rates(optimizers, rates, _schedule(options["schedule"], step, options["steps"]))
            torch.manual_seed(derive(options["seed"], "dropout", step))
            found = update(step, rows_of(step, options, total))
            found = found if isinstance(found, dict) else {"loss": found}
            if not all(math.isfinite(value) for value in found.values()):
                raise UserError(f"{what}: loss is {found['loss']} at step {step + 1}; lower its learning rate or check the data")
            records.append({"step": step + 1, "elapsed_s": round(before + progress.elapsed(), 3), **found})
            progress.step(**found)
            if stopping.reason or ((step + 1) % options["save_every"] == 0 and step + 1 < options["steps"]):
                _save(work, optimizers, state(), records)
            if stopping.reason:
                raise stopping.interrupted(what, step + 1)
            stopping.longest_close = max(stopping.longest_close, time.monotonic() - began)
    return records


def _save(work, optimizers, state, records):
    with checkpoints.saving(work, f"{checkpoints.PREFIX}{len(records)}") as folder:
        saved = [optimizer.state_dict() for optimizer in optimizers]
        torch.save({"state": state, "optimizers": saved, "records": records}, folder / FILE)
    checkpoints.remove_others(work, len(records), checkpoints.options()["keep"])


def _restored(what, work, optimizers, restore):
    """The records up to the newest usable checkpoint, whose state is put back; [] if there is none."""
    folder = checkpoints.newest(work, what)
    if folder is None:
        return []
    saved = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    restore(saved["state"])
    for optimizer, one in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(one)
    return saved["records"]


class Rows:
    """The rows of a corpus that a training will ask for, tokenized: a corpus of gigabytes is neither kept nor tokenized whole.

    len() is the number of all rows, which the order of batches is drawn over.
    """

    def __init__(self, total, encoded):
        self.total, self.encoded = total, encoded  # {row number: (token ids, prompt length)}

    def __len__(self):
        return self.total

    def batch(self, numbers):
        """[(token ids, prompt length)] of these rows, less those that `max_length` cuts before their answer."""
        return [self.encoded[i] for i in numbers if i in self.encoded]


def encode(words, train, options, numbers=None):
    """The `Rows` of all steps from the corpus file `train`; numbers: of the rows that count as the corpus, None for all.

    UserError if they are less than a batch, or where none of a step's rows keeps a target within max_length.
    """
    numbers = range(corpus.count(train)) if numbers is None else numbers
    if len(numbers) < options["batch_size"]:
        raise UserError(f"{train}: {len(numbers)} rows, probes.*.warmup.batch_size is {options['batch_size']}")
    steps = [rows_of(step, options, len(numbers)) for step in range(options["steps"])]
    found = corpus.pick(train, ("messages",), {numbers[i] for step in steps for i in step})
    encoded = {}
    for i in {i for step in steps for i in step}:
        ids, prompt = batches.encode(words, found[numbers[i]]["messages"], options["max_length"])
        if prompt < len(ids):
            encoded[i] = ids, prompt
    rows = Rows(len(numbers), encoded)
    empty = next((step for step, chosen in enumerate(steps, 1) if not rows.batch(chosen)), None)
    if empty:
        raise UserError(f"{train}: none of the rows of step {empty} keeps a target within max_length {options['max_length']}")
    return rows


def backward(model, chosen, pad_id, options, forward=loss.next_token_loss, autocast=False):
    """Accumulate the gradient of the mean loss (nats per target token) over the rows `chosen`; returns the loss.

    The rows pass in parts of options["device_batch_size"], each weighted by its share of target tokens, so the result
    does not depend on that size. forward(model, batch) gives (mean loss, number of target tokens).
    """
    size = options["device_batch_size"]
    tokens = sum(len(ids) - prompt for ids, prompt in chosen)
    total, device = 0.0, load.device()
    for start in range(0, len(chosen), size):
        batch = batches.collate(chosen[start : start + size], pad_id, device)
        with torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
            value, count = forward(model, batch)
        (value * (count / tokens)).backward()
        total += value.item() * count / tokens
    return total


def rows_of(step, options, total):
    """Row numbers of a step's batch: whole batches from a permutation that depends on (seed, epoch) alone."""
    per_epoch = total // options["batch_size"]
    epoch, position = divmod(step, per_epoch)
    order = _order(options["seed"], epoch, total)
    return order[position * options["batch_size"] : (position + 1) * options["batch_size"]].tolist()


@functools.lru_cache(maxsize=4)
def _order(seed, epoch, total):
    return torch.randperm(total, generator=torch.Generator().manual_seed(derive(seed, "warmup-order", epoch)))


def _set_rates(optimizers, rates, factor):
    for optimizer, bases in zip(optimizers, rates, strict=True):
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["lr"] = base * factor


def _schedule(name, step, steps):
    """Factor on the learning rate at a step counted from 0: constant | linear | cosine decay."""
    share = step / max(steps, 1)
    return {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[name]
