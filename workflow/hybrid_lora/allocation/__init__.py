"""Allocation stage: ranked modules and a budget -> which get full fine-tuning and which LoRA (Eq. 3-4)."""
