"""A copy of the checkout in which the tiny configuration has been run once."""

import pytest
from tests_workflow import copy_checkout, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The checkout with all results of the tiny configuration."""
    folder = copy_checkout(tmp_path_factory.mktemp("tiny") / "checkout")
    snakemake(folder)
    return folder
