"""Hybrid-LoRA: full fine-tuning for the modules LoRA serves least, LoRA for the rest (arXiv 2605.18822)."""

__version__ = "0.1.0"
