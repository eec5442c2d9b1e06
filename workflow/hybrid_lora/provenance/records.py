"""Artifacts below results/ and their manifests: which belongs to which, and what a file's hash is.

A file F has F.manifest.json beside it, or lies in a folder whose manifest.json lists it among its `outputs`.
"""

import os
from pathlib import Path

from hybrid_lora.common import manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import read_json, sha256_file

RESULTS = "results"
FOLDER = "manifest.json"
BESIDE = ".manifest.json"
NO_ARTIFACTS = ("logs", "benchmarks")  # below results/: what jobs and Snakemake write about themselves
LARGE = 1_000_000  # bytes of a file that a quick look does not read
SOON = 600.0  # seconds after its manifest within which Snakemake touches a finished file
KEYS = {"stage", "settings", "inputs", "code", "outputs"}


def walk(top):
    """(files, manifests) below a file or folder as sorted texts; what is hidden, logs, benchmarks and README.md are left out."""
    top = os.path.normpath(top)
    if os.path.isfile(top):
        return ([], [top]) if is_manifest(top) else ([top], [])
    files, manifests = [], []
    for folder, folders, names in os.walk(top):
        kept = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in kept if Path(folder).name != RESULTS or name not in NO_ARTIFACTS]
        for name in names:
            path = os.path.join(folder, name)
            if is_manifest(path):
                manifests.append(path)
            elif not name.startswith(".") and path != os.path.join(RESULTS, "README.md"):
                files.append(path)
    return sorted(files), sorted(manifests)


def is_manifest(path):
    """Whether a path is named like a manifest."""
    return str(path).endswith(BESIDE) or os.path.basename(path) == FOLDER


def listed(path, about):
    """Paths of the files that a manifest at `path` lists."""
    return [os.path.join(os.path.dirname(path), name) for name in about["outputs"]]


class Records:
    """Manifests and hashes, each read once. exact: read every file; else trust the manifest of a large one, see `_recorded`."""

    def __init__(self, exact):
        self.exact = exact
        self._manifests, self._hashes, self._code = {}, {}, {}

    def read(self, path):
        """The manifest at `path`. UserError where it is missing, damaged, or something else."""
        path = str(path)
        if path not in self._manifests:
            about = read_json(path)
            if not isinstance(about, dict) or KEYS - set(about):
                raise UserError(f"{path}: not a manifest of this project")
            if "sha256" in about and about["sha256"] != manifest.seal(about):
                raise UserError(f"{path}: altered since it was written")
            self._manifests[path] = about
        return self._manifests[path]

    def place(self, artifact):
        """Path of the manifest that tells of an artifact (which may be missing itself), None without one."""
        path = str(artifact)
        if os.path.basename(path) == FOLDER or os.path.isdir(path):
            inside = path if os.path.basename(path) == FOLDER else os.path.join(path, FOLDER)
            return inside if os.path.isfile(inside) else None
        if os.path.isfile(path + BESIDE):
            return path + BESIDE
        around = os.path.join(os.path.dirname(path), FOLDER)
        if os.path.isfile(around) and os.path.basename(path) in self.read(around)["outputs"]:
            return around
        return None

    def of(self, artifact):
        """The manifest of an artifact, None without one. UserError where it is damaged."""
        path = self.place(artifact)
        return None if path is None else self.read(path)

    def now(self, path):
        """SHA-256 of a file's content. For one that is missing: what its manifest says, None where there is none either."""
        path = str(path)
        if path not in self._hashes:
            self._hashes[path] = self._recorded(path) or (sha256_file(path) if os.path.isfile(path) else None)
        return self._hashes[path]

    def all_now(self, code):
        """{name in manifests: SHA-256} of the Python files of a job."""
        code = tuple(code)
        if code not in self._code:
            self._code[code] = {manifest.code_name(path): self.now(path) for path in code}
        return self._code[code]

    def learn(self, path, sha256):
        """Remember a hash that was computed elsewhere."""
        self._hashes[str(path)] = sha256

    def _recorded(self, path):
        """The hash in a file's manifest: of one that is missing, or, for a quick look, of a large one that looks as it was."""
        if is_manifest(path) or not path.startswith(f"{RESULTS}/"):
            return None
        try:
            about = os.stat(path)
        except FileNotFoundError:
            about = None
        if about is not None and (self.exact or about.st_size < LARGE):
            return None
        place = self.place(path)
        if place is None:
            return None
        name, found = os.path.basename(path), self.read(place)
        as_it_was = about is None or (
            about.st_size == found.get("sizes", {}).get(name) and about.st_mtime <= os.path.getmtime(place) + SOON
        )
        return found["outputs"].get(name) if as_it_was else None
