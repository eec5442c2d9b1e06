"""The shapes of the paper's models (Qwen2.5 at 1.5B, 3B, 7B; Section 4.1), and of 0.5B, built without weights.

The numbers are those of the published config.json files; what they leave at Qwen2Config's defaults is left so here.
"""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from hybrid_lora.modeling import candidates

# hidden size, size of the MLP, layers, heads, key and value heads, vocabulary, embeddings tied to the LM head
_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
}


def model(name):
    """The model of a shape (a key of SHAPES) on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return Qwen2ForCausalLM(Qwen2Config(**dict(zip(_KEYS, SHAPES[name], strict=True))))


def build(name):
    """(candidate modules as dicts in the order of modules.json, number of all parameters, tied ones once)."""
    shape = model(name)
    return [vars(candidate) for candidate in candidates.find(shape)], sum(p.numel() for p in shape.parameters())
