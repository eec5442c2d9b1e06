"""Snakemake's command line in processes forked from one that has imported it: half the time of a dry run is imports."""

import multiprocessing
import os
import sys
import tempfile

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["snakemake.cli"])


def main(arguments, folder, environment, path):
    """(exit status, output) of `snakemake *arguments` in `folder`; path: folders that come first on Python's path."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        child = _context.Process(target=_child, args=(arguments, str(folder), environment, [str(p) for p in path], log.name))
        child.start()
        child.join()
        return child.exitcode, log.read()


def _child(arguments, folder, environment, path, log):
    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = path
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    main()
