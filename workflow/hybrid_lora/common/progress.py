"""Progress lines with an ETA, plain text so that they read well in a log file."""

import sys
import time


class Progress:
    """Print `what done/total (percent) elapsed eta extras` at most once every `every` seconds, and at the end.

    `start` is the number of units that an earlier, interrupted process has done: the ETA counts this process alone.
    """

    def __init__(self, what, total, start=0, every=5.0, stream=None):
        self.what, self.total, self.start, self.done, self.every = what, total, start, start, every
        self.stream = stream or sys.stderr
        self.began = time.monotonic()
        self.printed = float("-inf")

    def step(self, n=1, **extras):
        """Count `n` more units; `extras` are shown, numbers with four significant digits."""
        self.done += n
        now = time.monotonic()
        if now - self.printed < self.every and self.done < self.total:
            return
        self.printed = now
        elapsed = self.elapsed()
        fresh = self.done - self.start
        eta = elapsed / fresh * (self.total - self.done) if fresh else 0.0
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in extras.items())
        share = 100 * self.done / max(self.total, 1)
        line = f"{self.what} {self.done}/{self.total} ({share:.0f} %) {clock(elapsed)} elapsed, ETA {clock(eta)} {shown}"
        print(line.rstrip(), file=self.stream, flush=True)

    def elapsed(self):
        """Seconds since this process began the work."""
        return time.monotonic() - self.began


def clock(seconds):
    """Seconds as h:mm:ss."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
