"""The one exception for mistakes a user can mend: its text is one line that names the file, the key and what is allowed."""


class UserError(Exception):
    """Bad input. `hybrid_lora` prints its text as one line and exits with status 2; there is no traceback."""
