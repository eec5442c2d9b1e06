"""Which problems of benchmarks a text repeats: shared n-grams of words, 13 by default, as in GPT-3's report (2005.14165).

Words are runs of letters, digits and underscores, in lower case; punctuation does not count. A problem of fewer than n words
is found where the text, or whole lines of it, are that problem in full, blanks aside: its few words alone would be found
everywhere. Only a problem's own text is looked for, not its options, nor what a source tells the model around it. The
paper says nothing of overlap.

Standing phrases count too ("where m and n are relatively prime positive integers. Find m + n"), so `least` may ask for a
larger share of a problem's n-grams than one of them.
"""

import re
import unicodedata
from collections import Counter, defaultdict

from hybrid_lora.contracts import benchmarks

_WORD = re.compile(r"\w+")


def plain(text):
    """Lower-case text in compatibility form without any blanks: what two copies of one problem have in common."""
    return "".join(_folded(text).split())


def _folded(text):
    return unicodedata.normalize("NFKC", text).casefold()


def grams(text, n):
    """The text's distinct n-grams, as a set of strings; empty where it has fewer than n words."""
    words = _WORD.findall(_folded(text))
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


class Index:
    """All problems of some benchmark files, to be looked up by text."""

    def __init__(self, files, n):
        """files: paths of benchmark files, whose stems are the benchmarks' names; n: words of an n-gram."""
        self.n, self.problems, self.sizes = n, [], []  # problems: [(benchmark, id)], sizes: distinct n-grams of each
        self._long, self._short, self._longest = defaultdict(list), defaultdict(list), 0
        for path in files:
            rows, format = benchmarks.read(path)[0], benchmarks.about(path)["format"]
            for row in rows:
                self._add(path.stem, row["id"], benchmarks.question(row, format))

    def _add(self, benchmark, name, text):
        number, found = len(self.problems), grams(text, self.n)
        self.problems.append((benchmark, name))
        self.sizes.append(len(found) or 1)
        for gram in found:
            self._long[gram].append(number)
        if not found:
            self._short[plain(text)].append(number)
            self._longest = max(self._longest, len(plain(text)))

    def find(self, text, least=0.0):
        """{number of a problem: shared n-grams} for all problems of whose n-grams the text holds one, and a share of `least`."""
        shared = Counter(number for gram in grams(text, self.n) for number in self._long.get(gram, ()))
        shared.update(dict.fromkeys(self._in_full(text), 1))
        return {number: count for number, count in shared.items() if count >= least * self.sizes[number]}

    def _in_full(self, text):
        """Numbers of the problems of fewer than n words that are the text, or some lines of it that follow one another."""
        lines, found = [plain(line) for line in text.splitlines()], set()
        for start in range(len(lines)):
            run = ""
            for line in lines[start:]:
                run += line
                if len(run) > self._longest:
                    break
                found.update(self._short.get(run, ()))
        return found
