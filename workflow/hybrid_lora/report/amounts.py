"""Numbers as the figures and tables print them."""

BUDGETS = {"params": "of candidate parameters", "modules": "of candidate modules", "absolute": "parameters"}
IN_WORDS = {
    "params": "a share of the candidate modules' parameters (Eq. 4)",
    "modules": "a share of the number of candidate modules",
    "absolute": "a number of parameters",
}


def short_count(number):
    """A number of parameters with three digits or so, e.g. 105M, 12.3K, 1.54B, 0; exact below a thousand."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        # 999,999 would round to 1000K: compare what is printed, not the number.
        if float(f"{number:.3g}") >= size:
            value = float(f"{number:.3g}") / size
            return f"{value:.0f}{letter}" if value >= 100 else f"{value:.3g}{letter}"
    return str(number)


def budget(amount, unit):
    """A budget with its unit, e.g. '10 % of candidate parameters'; unit: a key of BUDGETS, amount: a share or a number."""
    number = float(amount)
    shown = short_count(round(number)) if unit == "absolute" else f"{100 * number:.3g} %"
    return f"{shown} {BUDGETS[unit]}"
