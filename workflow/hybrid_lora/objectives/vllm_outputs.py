"""What a colocated engine hands back, without an object for every token.

TRL asks vLLM for text and log-probabilities as anybody gets them: a dict with an object for each token, the token decoded
beside it, and the text decoded as it grows. The engine runs in the training's own process, so all of it delays the engine's
next step; TRL then reads one number from each dict and decodes the completions itself. Here vLLM keeps plain lists
(`flat_logprobs`) and decodes nothing. What is sampled is the same.

vLLM fills these lists by a general path for any number of alternatives, which slices three arrays for each token and takes 3
microseconds more: a tenth of a generation. The sampled token alone is passed on as numbers (`_append_directly`), which takes
half a microsecond; anything else still goes vLLM's own way.
"""

import functools
import importlib
import math

import numpy as np
from trl.generation import vllm_generation

SAMPLING = {"detokenize": False, "flat_logprobs": True}  # further arguments of vLLM's SamplingParams


def read_flat():
    """Have vLLM append sampled tokens' log-probabilities directly, and TRL take flat ones as they are; others are made and
    read as before. Calling it again changes nothing."""
    _append_directly()
    original = vllm_generation.extract_logprobs
    if getattr(original, "reads_flat", False):
        return

    @functools.wraps(original)
    def extract_logprobs(outputs):
        return _flat([one for output in outputs for one in output.outputs]) or original(outputs)

    extract_logprobs.reads_flat = True
    vllm_generation.extract_logprobs = extract_logprobs


def _append_directly():
    # Not by an import statement: vLLM's version counts where it makes rollouts (`CHOICES` of the commands), not wherever this is.
    lists = importlib.import_module("vllm.v1.outputs").LogprobsLists
    processor = importlib.import_module("vllm.v1.engine.logprobs").LogprobsProcessor
    flat = importlib.import_module("vllm.logprobs").FlatLogprobs
    if not getattr(lists.slice_request, "slices_numbers", False):
        lists.slice_request = _slicing(lists.slice_request)
        processor._update_sample_logprobs = _appending(processor._update_sample_logprobs, lists, flat)


def _slicing(original):
    """`LogprobsLists.slice_request` that makes one tuple of one sampled token, (id, log-probability, rank), not three arrays."""

    @functools.wraps(original)
    def slice_request(self, place, count):
        if count != 1 or self.logprobs.shape[1] != 1 or self.cu_num_generated_tokens is not None:
            return original(self, place, count)
        return self.logprob_token_ids.item(place), self.logprobs.item(place), self.sampled_token_ranks.item(place)

    slice_request.slices_numbers = True
    return slice_request


def _appending(original, lists, flat):
    """`LogprobsProcessor._update_sample_logprobs` that takes such tuples, too; lists, flat: vLLM's types of these names."""

    @functools.wraps(original)
    def update(self, given):
        """given: a tuple, or LogprobsLists of one request, arrays [tokens, alternatives], the sampled token first."""
        if type(given) is not tuple:
            original(self, given)
        elif self.num_logprobs or self.tokenizer is not None or type(self.logprobs) is not flat:
            token, value, rank = given
            original(self, lists(np.array([[token]]), np.array([[value]]), np.array([rank])))
        else:
            _append(self, *given)

    return update


def _append(processor, token, value, rank):
    kept, position = processor.logprobs, len(processor.logprobs.logprobs)
    processor.cumulative_logprob += value
    kept.start_indices.append(position)
    kept.token_ids.append(token)
    kept.logprobs.append(value)
    kept.ranks.append(rank)
    kept.decoded_tokens.append(None)
    kept.end_indices.append(position + 1)


def _flat(completions):
    """([completion][token][(value,)], ids alike) where all are flat and of sampled tokens alone; None otherwise."""
    values = [getattr(one.logprobs, "logprobs", None) for one in completions]
    if not all(found is not None and len(found) == len(one.token_ids) for found, one in zip(values, completions)):
        return None
    numbers = [[(None if math.isnan(value) else value,) for value in found] for found in values]  # as TRL has it
    return numbers, [list(zip(one.token_ids)) for one in completions]
