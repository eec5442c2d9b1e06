"""Keys that a command needs in its --settings, missing ones as one line."""

from hybrid_lora.common.errors import UserError


def need(settings, keys, where):
    """UserError naming the first of `keys` that `settings` lacks; `where` names the settings, e.g. 'table1 settings'."""
    for key in keys:
        if key not in settings:
            raise UserError(f"{where}: key '{key}' is missing; needed are {', '.join(keys)}")
