"""What a colocated engine hands back, without an object for every token.

TRL asks vLLM for text and log-probabilities as anybody gets them: a dict with an object for each token, the token decoded
beside it, and the text decoded as it grows. The engine runs in the training's own process, so all of it delays the engine's
next step; TRL then reads one number from each dict and decodes the completions itself. Here vLLM keeps plain lists
(`flat_logprobs`) and decodes nothing. What is sampled is the same.

vLLM fills these lists by a general path for any number of alternatives, 3 microseconds a token: a tenth of a generation. The
sampled token alone takes a third of a microsecond (`_append_directly`); anything else still goes vLLM's own way.
"""

import functools
import importlib
import math

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
    FlatLogprobs = importlib.import_module("vllm.logprobs").FlatLogprobs
    LogprobsProcessor = importlib.import_module("vllm.v1.engine.logprobs").LogprobsProcessor
    original = LogprobsProcessor._update_sample_logprobs
    if getattr(original, "appends_directly", False):
        return

    @functools.wraps(original)
    def update(self, lists):
        """lists: vLLM's LogprobsLists of one request, arrays [tokens, alternatives], the sampled token first."""
        flat = self.logprobs
        if self.num_logprobs or self.tokenizer is not None or type(flat) is not FlatLogprobs or len(lists.logprobs) != 1:
            original(self, lists)
            return
        value, position = lists.logprobs.item(0), len(flat.logprobs)
        self.cumulative_logprob += value
        flat.start_indices.append(position)
        flat.token_ids.append(lists.logprob_token_ids.item(0))
        flat.logprobs.append(value)
        flat.ranks.append(lists.sampled_token_ranks.item(0))
        flat.decoded_tokens.append(None)
        flat.end_indices.append(position + 1)

    update.appends_directly = True
    LogprobsProcessor._update_sample_logprobs = update


def _flat(completions):
    """([completion][token][(value,)], ids alike) where all are flat and of sampled tokens alone; None otherwise."""
    values = [getattr(one.logprobs, "logprobs", None) for one in completions]
    if not all(found is not None and len(found) == len(one.token_ids) for found, one in zip(values, completions)):
        return None
    numbers = [[(None if math.isnan(value) else value,) for value in found] for found in values]  # as TRL has it
    return numbers, [list(zip(one.token_ids)) for one in completions]
