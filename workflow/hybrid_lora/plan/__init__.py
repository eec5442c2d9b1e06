"""Plan: what a run will need before anything is queued: memory, tokens, disk and GPU-hours. Estimates, from shapes alone."""
