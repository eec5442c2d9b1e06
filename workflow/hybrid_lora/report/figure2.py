"""Figure 2: where an allocation puts full fine-tuning (red cells) and LoRA, layer by layer and type by type.

One panel per allocation, stacked. The paper's axes: layers from left to right, counted from 0; q, k, v, o, gate, up,
down from top to bottom. The files are the same bytes for the same input: no dates, fixed SVG identifiers, default style.
"""

from hybrid_lora.common import code, manifest
from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import atomic_path
from hybrid_lora.contracts import allocation as allocation_file
from hybrid_lora.contracts import modules as modules_file
from hybrid_lora.contracts.modules import TYPES
from hybrid_lora.report import amounts
from hybrid_lora.report.settings import need

DPI = 150
# In inches; a cell is narrower in deep models so that 80 layers still fit a page held sideways.
CELL_HEIGHT, WIDEST_CELL, CELLS_WIDTH = 0.26, 0.9, 10.0
LEFT, RIGHT, TITLE, AXIS, LEGEND = 0.6, 0.2, 0.55, 0.42, 0.4
LETTERS = (0.085, 0.064)  # of the two title lines; a figure of few layers is as wide as its titles need


def run(settings, modules, allocations, png, svg):
    """settings: {full_colour, lora_colour, labels: one panel title per allocation}; modules: paths of modules.json."""
    need(settings, ("full_colour", "lora_colour", "labels"), "figure2 settings")
    panels = _panels(settings["labels"], modules, allocations)
    _draw(panels, settings["full_colour"], settings["lora_colour"], png, svg)
    inputs = {"modules": modules, "allocations": allocations}
    for artifact in (png, svg):
        manifest.write_beside(artifact, "report.figure2", settings, inputs, code.sources("hybrid_lora.report.figure2"))


def _panels(labels, modules, allocations):
    """Per allocation: (title lines, number of layers, {(layer, type): is it in full})."""
    if not allocations:
        raise UserError(
            "figure2: there is no allocation to draw; the runs table needs a run whose method has a criterion (e.g. hybrid)"
        )
    if len(labels) != len(allocations):
        raise UserError(f"figure2 settings: key 'labels' has {len(labels)} titles for {len(allocations)} allocations")
    models = [modules_file.read(path) for path in modules]
    return [_panel(label, path, models) for label, path in zip(labels, allocations, strict=True)]


def _panel(label, path, models):
    value = allocation_file.read(path)
    listed = next((m["modules"] for m in models if m["model"] == value["model"]), None)
    if listed is None:
        raise UserError(f"{path}: none of the given modules.json is of its model '{value['model']['id']}'")
    full, lora = set(value["fft"]), set(value["lora"]["names"])
    wrong = sorted((full | lora) ^ {m["module"] for m in listed})
    if wrong:
        raise UserError(f"{path}: module '{wrong[0]}' does not agree with the modules.json of its model")
    cells = {(m["layer"], m["type"]): m["module"] in full for m in listed}
    return _title(label, value), 1 + max(layer for layer, _ in cells), cells


def _title(label, value):
    used = amounts.budget(value["budget"]["used"], value["budget"]["unit"])
    count = f"{len(value['fft'])} of {value['counts']['candidates']} modules"
    return label, f"criterion {value['criterion']}: {count} in full ({used})"


def _draw(panels, full_colour, lora_colour, png, svg):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
        matplotlib.rcParams["svg.hashsalt"] = "hybrid-lora"
        figure = _figure(plt, panels, full_colour, lora_colour)
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        with atomic_path(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _figure(plt, panels, full_colour, lora_colour):
    titles = (letter * len(line) for title, _, _ in panels for letter, line in zip(LETTERS, title, strict=True))
    width = LEFT + max(*titles, *(_cell(count) * count for _, count, _ in panels)) + RIGHT
    panel_height = TITLE + CELL_HEIGHT * len(TYPES) + AXIS
    height = panel_height * len(panels) + LEGEND
    figure = plt.figure(figsize=(width, height))
    for index, (title, count, cells) in enumerate(panels):
        bottom = height - panel_height * (index + 1) + AXIS
        box = (LEFT / width, bottom / height, _cell(count) * count / width, CELL_HEIGHT * len(TYPES) / height)
        axes = figure.add_axes(box)
        _cells(plt, axes, f"panel-{index}", cells, full_colour, lora_colour)
        _axes(axes, title, count)
    patches = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (full_colour, lora_colour)]
    place = {"loc": "lower left", "bbox_to_anchor": (LEFT / width, 0.08 / height), "borderaxespad": 0}
    figure.legend(patches, ["full fine-tuning", "LoRA"], ncols=2, frameon=False, fontsize=9, **place)
    return figure


def _cell(layers):
    return min(WIDEST_CELL, CELLS_WIDTH / layers)


def _cells(plt, axes, panel, cells, full_colour, lora_colour):
    for (layer, kind), full in cells.items():
        corner = (layer - 0.5, TYPES.index(kind) - 0.5)
        colour = full_colour if full else lora_colour
        patch = plt.Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8)
        patch.set_gid(f"{panel}-{layer}-{kind}")  # lets a reader of the SVG find a cell
        axes.add_patch(patch)


def _axes(axes, title, layers):
    label, details = title
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(len(TYPES) - 0.5, -0.5)
    step = next(s for s in (1, 2, 4, 5, 10, 20, 50, 100) if s * _cell(layers) >= 0.25)  # inches that a tick's number needs
    axes.set_xticks(range(0, layers, step))
    axes.set_yticks(range(len(TYPES)), TYPES)
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("layer", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.annotate(label, (0, 1), (0, 18), "axes fraction", "offset points", fontsize=10, fontweight="bold")
    axes.annotate(details, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8.5, color="#444444")
