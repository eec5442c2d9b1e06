"""Finished results of which Snakemake has no record: copied here without their `.snakemake/`, or made by hand.

By itself Snakemake takes them for up to date by their times alone, whatever the configuration says. That would show results of
other settings as today's, so the first one that is met ends the run before any job, and `hybrid_lora adopt`, which compares
manifests and makes the records, is named. What a job left whose Snakemake was killed has a mark of its own and is let pass.
"""

import functools
import os

from snakemake.exceptions import WorkflowError
from snakemake.persistence.file import FilePersistence

RESULTS = "results/"


def refuse():
    """Have this process's Snakemake refuse them; calling it twice does no more."""
    original = FilePersistence.has_metadata
    if hasattr(original, "refuses"):
        return

    @functools.wraps(original)
    def has_metadata(self, job):
        if original(self, job):
            return True
        if self.dag.workflow.touch:
            return False  # `snakemake --touch`: who asks for it vouches for what is there
        for path in job.output:
            if str(path).startswith(RESULTS) and os.path.exists(path) and not _known(self, path):
                raise WorkflowError(
                    f"{path}: finished, but not on record in .snakemake/: copied from elsewhere, or made by hand. Run "
                    "`hybrid_lora adopt` with the same --configfile: it takes over what today's configuration would make"
                )
        return False

    has_metadata.refuses = True
    FilePersistence.has_metadata = has_metadata


def _known(persistence, path):
    """Whether there is a record of it, or the mark of a job that was begun and whose end Snakemake has not seen."""
    begun = persistence._record_path(persistence._incomplete_path, persistence._get_key(path))
    return persistence.metadata(path) is not None or os.path.exists(begun)
