"""Exceptions that end a command with one line: mistakes a user can mend, and being stopped."""


class UserError(Exception):
    """Bad input; the text is one line that names the file, the key and what is allowed.

    `hybrid_lora` prints it and exits with status 2; there is no traceback.
    """


class Interrupted(Exception):
    """Work was stopped from outside and its state saved: `hybrid_lora` prints the text and exits with `status`.

    The status is never 0, so Snakemake and Slurm know that the job is not done; started again, it goes on.
    """

    def __init__(self, text, status):
        super().__init__(text)
        self.status = status
