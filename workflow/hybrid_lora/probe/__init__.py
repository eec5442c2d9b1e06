"""Probe stage: warm-up of the SVD-LoRA probe, then per-batch sensitivities under random masks (Section 3.2-3.3)."""
