"""`hybrid_lora verify`: artifacts against the hashes in their manifests; what is altered, cut short, gone or foreign is named."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import sha256_file
from hybrid_lora.common.progress import Progress
from hybrid_lora.provenance import records

THREADS = 4  # hashing releases the interpreter's lock


@dataclass(frozen=True)
class Checked:
    """problems: {path: what is wrong}; hashes: {path: SHA-256} of what was read; manifests: {path: content} of the sound ones."""

    problems: dict
    hashes: dict
    manifests: dict


def run(arguments):
    """paths: files or folders below results/. UserError, after naming each file, where something is wrong."""
    for path in arguments.paths:
        if not os.path.lexists(path) and not os.path.isfile(f"{path}{records.BESIDE}"):
            raise UserError(f"{path}: no such file, and no manifest of it")
    checked = check(arguments.paths)
    for path, what in sorted(checked.problems.items()):
        print(f"{path}: {what}")
    count = f"{len(checked.hashes)} files of {len(checked.manifests)} manifests"
    if not checked.problems and not checked.manifests:
        raise UserError(f"{', '.join(map(str, arguments.paths))}: no artifacts")
    if checked.problems:
        raise UserError(f"{len(checked.problems)} problems in {count}")
    print(f"{count}: all as they were made")


def check(paths):
    """Checked for files and folders. A file is checked against its own manifest alone, a folder with all that lies in it."""
    files, manifests = set(), set()
    for path in paths:
        found, about = records.walk(path)
        files.update(found)
        manifests.update(about)
        if not os.path.isdir(path):
            manifests.update(_manifest_of(path))
    wanted = None if any(os.path.isdir(path) for path in paths) else set(map(os.path.normpath, paths))
    checked = _compare(files, sorted(manifests), wanted)
    folders = [os.path.normpath(path) for path in paths if os.path.isdir(path)]
    return Checked({**_vanished(checked, folders), **checked.problems}, checked.hashes, checked.manifests)


def _vanished(checked, folders):
    """Files that others were made from, gone together with their manifests; only those that belong into what is checked."""
    found = {}
    for place, about in checked.manifests.items():
        for path in (path for paths in about["inputs"].values() for path in paths):
            inside = any(path.startswith(f"{folder}/") for folder in folders)
            if inside and path not in found and not os.path.exists(path) and not os.path.exists(path + records.BESIDE):
                found[path] = f"missing, and so is its manifest; {place} says that it was read"
    return found


def _manifest_of(path):
    """Path of the manifest that lists one file, as a list of at most one."""
    path = os.path.normpath(path)
    if records.is_manifest(path):
        return []
    try:
        place = records.Records(exact=True).place(path)
    except UserError:  # a damaged manifest.json around it: named where it is read
        place = os.path.join(os.path.dirname(path), records.FOLDER)
    return [] if place is None else [place]


def _compare(files, manifests, wanted):
    problems, sound, expected = {}, {}, {}
    reader = records.Records(exact=True)
    for path in manifests:
        try:
            sound[path] = reader.read(path)
        except UserError as error:
            problems[path] = str(error).removeprefix(f"{path}: ")
            continue
        for name in records.listed(path, sound[path]):
            if wanted is None or name in wanted or path in wanted:
                expected[name] = path
    for path in files - set(expected):
        problems[path] = _unlisted(path, problems)
    missing = {path for path in expected if not os.path.isfile(path)}
    problems |= {path: f"missing; {expected[path]} lists it" for path in missing}
    hashes = _hashes(sorted(set(expected) - missing))
    for path, sha in hashes.items():
        what = _difference(path, sha, sound[expected[path]])
        if what:
            problems[path] = what
    return Checked(problems, hashes, sound)


def _unlisted(path, problems):
    around = os.path.join(os.path.dirname(path), records.FOLDER)
    for place in (path + records.BESIDE, around):
        if place in problems:
            return f"cannot be checked, {place} is damaged"
    return f"foreign: {around} does not list it" if os.path.isfile(around) else "no manifest tells of it"


def _difference(path, sha, about):
    name = os.path.basename(path)
    if sha == about["outputs"][name]:
        return None
    if isinstance(sha, OSError):
        return f"cannot be read ({sha.strerror})"
    was, now = about.get("sizes", {}).get(name), os.path.getsize(path)
    if was is not None and now < was:
        return f"truncated: {now:,} of {was:,} bytes"
    if was is not None and now > was:
        return f"altered: {now:,} bytes, {was:,} when it was made"
    return "altered: its SHA-256 is not the one in its manifest"


def _hashes(paths):
    sizes = [os.path.getsize(path) for path in paths]
    progress = Progress("hashing (MB)", round(sum(sizes) / 1e6) or 1)
    found, done, told = {}, 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        for path, size, sha in zip(paths, sizes, pool.map(_hash, paths), strict=True):
            found[path], done = sha, done + size
            if round(done / 1e6) > told:
                progress.step(round(done / 1e6) - told)
                told = round(done / 1e6)
    return found


def _hash(path):
    try:
        return sha256_file(path)
    except OSError as error:
        return error
