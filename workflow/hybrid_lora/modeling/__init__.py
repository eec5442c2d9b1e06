"""Models below the stages: candidate modules, loading, the SVD-LoRA probe, the hybrid adapter, losses."""
