"""Which published version of a benchmark a file is, by columns and number of problems; contracts.benchmark_names lists them."""

from hybrid_lora.common.errors import UserError
from hybrid_lora.contracts.benchmark_names import VERSIONS


def sizes(format):
    """The known versions and their numbers of problems, for messages: "v0.3.1 228, v0.3.0 386, ..."."""
    return ", ".join(f"{name} {count}" for name, count in VERSIONS[format].items())


def check(version, format, problems, name):
    """UserError where the settings name a version that there is not, or more problems than it has."""
    if version is None:
        return
    if version not in VERSIONS[format]:
        raise UserError(f"benchmarks.{name}.version is {version!r}, allowed in format {format}: {', '.join(VERSIONS[format])}")
    if problems > VERSIONS[format][version]:
        raise UserError(f"benchmarks.{name}.problems is {problems}, version {version} has {VERSIONS[format][version]}")


def of(rows, format, version, place):
    """The version's name, None where it is none of the known ones; UserError where the settings name another one.

    Columns tell LeetCodeDataset's versions apart (before v0.3.1 there is `meta`), size tells the rest; a subset is only
    what the settings say it is.
    """
    fitting = [name for name in VERSIONS[format] if _has_columns(rows[0], format, name)]
    if version is None:
        same_size = [name for name in fitting if VERSIONS[format][name] == len(rows)]
        return same_size[0] if len(same_size) == 1 else None
    if version not in fitting:
        allowed = ", ".join(fitting) or "none of the known ones"
        raise UserError(f"{place}: does not have the columns of version {version} of format {format}; they fit {allowed}")
    return version


def _has_columns(row, format, version):
    if format != "leetcode":
        return True
    return ("meta" in row) != version.startswith("v0.3.1")
