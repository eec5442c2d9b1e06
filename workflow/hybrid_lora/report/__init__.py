"""Report stage: allocations and metrics -> Figure 2, Table 1 and the index of a study's results."""
