"""Conversations -> token batches with a next-token loss on the assistant's part only.

The prompt is rendered with the chat template's generation prompt, exactly as at inference; the target is the
assistant's text plus the end-of-sequence token.
"""

import torch


def encode(tokenizer, messages, max_length):
    """(token ids, number of prompt tokens) of one conversation, cut to `max_length`; the last message is the target."""
    text = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    target = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return (prompt + target)[:max_length], min(len(prompt), max_length)


def collate(encoded, pad_id, device="cpu"):
    """Right-padded tensors from a list of (ids, prompt length): input_ids, attention_mask, labels, each [batch, length].

    Labels are -100 on the prompt and the padding.
    """
    length = max(len(ids) for ids, _ in encoded)
    ids_BL = torch.full((len(encoded), length), pad_id, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    labels_BL = torch.full_like(ids_BL, -100)
    for row, (ids, prompt) in enumerate(encoded):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = 1
        labels_BL[row, prompt : len(ids)] = torch.tensor(ids[prompt:])
    return {"input_ids": ids_BL.to(device), "attention_mask": mask_BL.to(device), "labels": labels_BL.to(device)}
