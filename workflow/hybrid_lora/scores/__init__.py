"""Scores stage: per-batch dumps -> one ranked score per module and criterion (Eq. 13-15)."""
