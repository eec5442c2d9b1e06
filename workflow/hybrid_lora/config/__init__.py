"""Configuration: merged values and the runs table -> checked `Config`, or one line that says what to mend.

Nothing of the paper is computed here. Imports stay light: the Snakefile loads this before every job.
"""

from hybrid_lora.config.loading import Config, Run, check_run, load

__all__ = ["Config", "Run", "check_run", "load"]
