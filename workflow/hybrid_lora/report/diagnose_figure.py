"""The figure of `report diagnose`: left each criterion's rank correlation with P and |P|, right what a seed or K changes.

The files are the same bytes for the same input: no dates, fixed SVG identifiers, default style, as in `figure2`.
"""

from hybrid_lora.common.files import atomic_path
from hybrid_lora.report import agreement, amounts

DPI = 150
# In inches.
ROW, TOP, BOTTOM, EDGE = 0.42, 0.8, 0.68, 0.25
LEFT_NAMES, LEFT_WIDTH, RIGHT_NAMES, RIGHT_WIDTH = 1.05, 3.6, 1.5, 2.9
DARK, LIGHT, RED, INK, RULE = "#1f4e79", "#6f9bc2", "#d62728", "#333333", "#dddddd"
OFFSET = 0.17  # of the two markers in a row from its middle, in rows
ROOM = 0.3  # of the axis: what a direct label needs beside its marker
# key of a row's values -> (marker, colour, direct label)
AGAINST = {"P": ("o", DARK, "P"), "|P|": ("D", LIGHT, "|P|")}
STABILITY = {"spearman": ("o", DARK, "scores"), "jaccard": ("s", RED, "sets in full")}


def draw(result, settings, png, svg):
    """result: as `diagnose.run` collects it; the right panel is left out where no stability was asked for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams["svg.hashsalt"] = "hybrid-lora"
        figure = _figure(plt, result, settings)
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        with atomic_path(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _figure(plt, result, settings):
    left = [(entry["criterion"], {key: _point(entry[key]) for key in AGAINST}) for entry in result["correlations"]]
    right = _stability_rows(result)
    width = EDGE + LEFT_NAMES + LEFT_WIDTH + EDGE + (RIGHT_NAMES + RIGHT_WIDTH + EDGE if right else 0)
    height = TOP + ROW * max(len(left), len(right)) + BOTTOM
    figure = plt.figure(figsize=(width, height))

    def panel(start, wide, rows):
        return figure.add_axes((start / width, 1 - (TOP + ROW * len(rows)) / height, wide / width, ROW * len(rows) / height))

    axes = panel(EDGE + LEFT_NAMES, LEFT_WIDTH, left)
    count = f"{settings['model']}, n = {result['modules']} modules, 95 % bootstrap intervals"
    _head(axes, "Same order as the exact perturbation P?", count)
    _rows(axes, left, AGAINST, -1, "rank correlation (+1: same modules in full first)")
    if right:
        axes = panel(EDGE + LEFT_NAMES + LEFT_WIDTH + EDGE + RIGHT_NAMES, RIGHT_WIDTH, right)
        _head(axes, "Same allocation again?", f"modules in full: {amounts.budget(settings['ratio'], settings['unit'])}")
        values = [value for _, points in right for point in points.values() for value in point if value is not None]
        label = "rank correlation of scores,\nJaccard index of sets in full"
        _rows(axes, right, STABILITY, -1 if min(values, default=0) < 0 else 0, label)
    return figure


def _point(found):
    return found["value"], found["low"], found["high"]


def _stability_rows(result):
    """[(row's name, {statistic: (value, low, high)})]; a row without points heads those of a criterion."""
    rows = []
    for entry in result["stability"]:
        own = []
        if entry["seeds"]:
            pairs = entry["seeds"]
            name = "2 seeds" if len(pairs) == 1 else f"seeds, {len(pairs)} pairs"
            own.append((name, {key: agreement.spread([pair[key] for pair in pairs]) for key in STABILITY}))
        for pair in entry["partitions"]:
            own.append((f"K = {pair['first']} vs {pair['second']}", {key: (pair[key], None, None) for key in STABILITY}))
        rows += [(entry["criterion"], {}), *own] if own else []
    return rows


def _head(axes, title, details):
    axes.annotate(title, (0, 1), (0, 34), "axes fraction", "offset points", fontsize=10, fontweight="bold")
    axes.annotate(details, (0, 1), (0, 20), "axes fraction", "offset points", fontsize=8.5, color="#444444")


def _rows(axes, rows, series, lowest, label):
    """One row of two markers for each entry, the first row's labelled; `lowest`: left end of the axis, -1 or 0."""
    margin = 0.04 * (1 - lowest)
    axes.set_xlim(lowest - margin, 1 + margin)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1] if lowest < 0 else [0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    for tick, (_, points) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if points else "bold")
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.axvline(0, color="#888888", linewidth=0.9)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, fontsize=8.5, color=INK)
    axes.spines[:].set_visible(False)
    for side, key in zip((-1, 1), series, strict=True):
        points = {index + side * OFFSET: _ends(found[key]) for index, (_, found) in enumerate(rows) if found}
        for height, point in points.items():
            _mark(axes, height, point, series[key])
        _label(axes, points, *series[key][1:])


def _ends(point):
    """(value, low, high) with the value itself where a range is missing."""
    value, low, high = point
    return value, value if low is None else low, value if high is None else high


def _mark(axes, height, point, style):
    value, low, high = point
    marker, colour, name = style
    if value is None:
        place = ((0, height), (4, 0), "data", "offset points")
        axes.annotate(f"{name}: undefined", *place, va="center", fontsize=7, color="#888888")
        return
    axes.plot([low, high], [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([value], [height], marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6)


def _label(axes, points, colour, name):
    """A series' name, once: in the first row that has room beside its marker, else where there is most."""
    start, end = axes.get_xlim()
    rooms = {at: max(low - start, end - high) for at, (value, low, high) in points.items() if value is not None}
    if not rooms:
        return
    height = next((at for at, room in rooms.items() if room >= ROOM * (end - start)), max(rooms, key=rooms.get))
    _, low, high = points[height]
    anchor, shift, align = (high, 7, "left") if end - high >= low - start else (low, -7, "right")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # covers the axis' lines
    place = ((anchor, height), (shift, 0), "data", "offset points")
    axes.annotate(name, *place, ha=align, va="center", fontsize=8, color=colour, fontweight="bold", bbox=box)
