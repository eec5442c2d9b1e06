"""Small data for tests, in the contracts' formats, and a tiny model."""

import random


def conversations(count, seed=0):
    """Corpus rows: one-digit additions with worked solutions, all verified."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        a, b = draw.randrange(10), draw.randrange(10)
        messages = [
            {"role": "user", "content": f"Compute {a}+{b}."},
            {"role": "assistant", "content": f"{a}+{b}={a + b}\nThe answer is \\boxed{{{a + b}}}."},
        ]
        rows.append(
            {"id": f"r{i:05d}", "source": "math", "messages": messages, "gold": str(a + b), "num_tokens": 20, "tests": None}
        )
    return rows


def tiny_model(out):
    """A 2-layer random Qwen2 (biases on q, k, v) with a real tokenizer in the folder `out`, as the model stage leaves it."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hybrid_lora.common.files import directory_artifact
    from hybrid_lora.model import publish, tokenizer

    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    for name, parameter in model.named_parameters():  # transformers zeroes biases; a test needs to see them
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    with directory_artifact(out) as folder:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        publish.describe(folder, "tiny", None, "model.pretrain", {}, {})
    return out
