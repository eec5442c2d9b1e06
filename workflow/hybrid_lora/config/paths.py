"""Where local files named in the configuration lie."""

from pathlib import Path

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".json.gz", ".jsonl.gz", ".csv.gz")  # what the data stage reads
NOT_FILES = ("hub", "generated")


def data_file(data, data_dir, base):
    """The file that a corpus' or benchmark's `data` names, or None where it names none or none exists.

    A relative path is looked up in `data_dir`, then in `base`; `data_dir` itself starts from `base`.
    """
    if data in NOT_FILES:
        return None
    path = Path(data).expanduser()
    folders = [Path(base) / Path(data_dir).expanduser(), Path(base)]
    return next((folder / path for folder in folders if (folder / path).is_file()), None)


def model_folder(path, base):
    """The folder that a local model's `path` names; a relative one starts from `base`."""
    return Path(base) / Path(path).expanduser()
