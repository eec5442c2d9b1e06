"""probe.safetensors in results/probe/{model}/{probe}/warmup/: tensors "<module>.<part>" of every SVD-LoRA branch.

Parts: A [in, r], B [r, out], e [r], alpha [], float32 (Eq. 7).
"""

from safetensors import SafetensorError, safe_open

from hybrid_lora.common.errors import UserError


def alphas(path):
    """{exact module name: alpha}."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = [key for key in file.keys() if key.endswith(".alpha")]  # noqa: SIM118, no mapping
            return {key.removesuffix(".alpha"): float(file.get_tensor(key)) for key in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({str(error).splitlines()[0]})") from None
