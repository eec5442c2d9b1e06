"""Short regular expressions for many names. No counterpart in the paper.

Snakemake writes a wildcard's constraint into every path that holds the wildcard and reads the path again for each job, so a
list of 375 runs' names costs more than all else in planning a sweep. As a tree of prefixes whose equal branches are written
once, it is a sixteenth of that.
"""

import re


def exactly(names):
    """A regular expression that fully matches these strings and no other; of no name, one that matches nothing."""
    return _tree(frozenset(names)) if names else "(?!)"


def _tree(ends):
    branches = {}
    for end in ends - {""}:
        branches.setdefault(end[0], set()).add(end[1:])
    alike = {}
    for first in sorted(branches):
        alike.setdefault(_tree(frozenset(branches[first])), []).append(re.escape(first))
    parts = [(firsts[0] if len(firsts) == 1 else f"[{''.join(firsts)}]") + rest for rest, firsts in alike.items()]
    if "" in ends:
        return f"(?:{'|'.join(parts)})?" if parts else ""
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
