"""Checks of what the configuration alone cannot be wrong about when a command is typed by hand."""

from hybrid_lora.common.errors import UserError


def check(settings, keys, formats):
    """UserError unless `settings` has all `keys` and its format is one of `formats`."""
    for key in keys:
        if key not in settings:
            raise UserError(f"settings: key '{key}' is missing (needed: {', '.join(keys)})")
    if settings["format"] not in formats:
        raise UserError(f"settings: format is '{settings['format']}', allowed: {', '.join(formats)}")


def number(settings, key, least=0, none=False, within="settings"):
    """The whole number settings[key], at least `least`; None passes where `none`. UserError otherwise."""
    value = settings.get(key)
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        also = " or null" if none else ""
        raise UserError(f"{within}: {key} is {value!r}, allowed: a whole number of at least {least}{also}")
    return value


def share(settings, key, within="settings"):
    """The probability settings[key], 0 to 1. UserError otherwise."""
    value = settings.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{within}: {key} is {value!r}, allowed: a number from 0 to 1")
    return value
