"""SHA-256 of the user's own data and model files, for the settings of the jobs that read them.

Snakemake keeps no checksum of an input of more than 1 MB; with the hash among the settings a bare touch, a copy or another
clone of such a file reruns nothing, and an edit does. A file is read again only when its size or time has changed: hashes
are kept in results/.state/hashes.json, which may be deleted.
"""

import contextlib
import json
import sys
from pathlib import Path

from hybrid_lora.common.files import sha256_file, write_json

CACHE = "results/.state/hashes.json"
LARGE = 1 << 30  # bytes from which on a line says what is going on


class Fingerprints:
    """Hashes of files, remembered below the folder `base`."""

    def __init__(self, base):
        self.path = Path(base) / CACHE
        self.known = None

    def sha256(self, path):
        """SHA-256 of a file's bytes, as 64 hex digits."""
        found = Path(path).stat()
        stamp = [found.st_size, found.st_mtime_ns]
        key = str(Path(path).absolute())
        if self.known is None:
            self.known = self._read()
        if self.known.get(key, [None])[:2] != stamp:
            if found.st_size >= LARGE:
                print(f"hashing {path} ({found.st_size / LARGE:.1f} GiB), once", file=sys.stderr, flush=True)
            self.known[key] = [*stamp, sha256_file(path)]
            self._write()
        return self.known[key][2]

    def _read(self):
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        whole = isinstance(found, dict) and all(isinstance(entry, list) and len(entry) == 3 for entry in found.values())
        return found if whole else {}

    def _write(self):
        with contextlib.suppress(OSError):  # read-only results: the file is hashed again next time
            write_json(self.path, self.known)
