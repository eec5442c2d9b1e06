"""Scores stage: what probes measured -> one ranked score per module and criterion (Eq. 8-15)."""
