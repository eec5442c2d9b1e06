"""GPUs that a plan may be made for: memory, and speed relative to the H200 on which the rates in `hours` were measured.

Relative speeds are those of the data sheets (dense bf16 arithmetic, memory bandwidth), not measured.
"""

from dataclasses import dataclass

GIB = 2**30
OUTSIDE = 1.0 * GIB  # CUDA's own, libraries and what the allocator cannot use; not in PyTorch's count of allocated memory


@dataclass(frozen=True)
class GPU:
    """memory: bytes that the driver reports; arithmetic, bandwidth: relative to an H200."""

    memory: int
    arithmetic: float
    bandwidth: float


GPUS = {
    "h200": GPU(int(139.8 * GIB), 1.0, 1.0),
    "h100": GPU(int(79.2 * GIB), 1.0, 0.70),
    "a100": GPU(int(79.2 * GIB), 0.32, 0.42),
    "a800": GPU(int(79.2 * GIB), 0.32, 0.42),
}
