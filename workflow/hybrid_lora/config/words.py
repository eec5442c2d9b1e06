"""How messages are put: allowed values, and the one that was probably meant."""

import difflib


def choice(value, allowed):
    """`'bf61' is not known; allowed: bf16, fp32 (did you mean 'bf16'?)`"""
    allowed = [str(a) for a in allowed]
    listed = ", ".join(allowed) or "none is defined"
    return f"{value!r} is not known; allowed: {listed}{meant(value, allowed)}"


def meant(value, allowed):
    """` (did you mean 'x'?)` where something allowed is close, else nothing."""
    close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
