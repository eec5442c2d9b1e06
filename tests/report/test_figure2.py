"""Figure 2 as drawn: the red cells of the SVG and the red pixels of the PNG are the allocation's `fft` modules."""

import json
import random
import re
import xml.etree.ElementTree as xml

import matplotlib.image
import numpy as np
import pytest

from hybrid_lora.contracts.modules import TYPES
from hybrid_lora.report.__main__ import main

SETTINGS = {"full_colour": "#d62728", "lora_colour": "#dfe6ee"}
RED, PALE = np.array([0xD6, 0x27, 0x28]), np.array([0xDF, 0xE6, 0xEE])


def draw(tmp_path, files, labels=None, **settings):
    labels = [f"model {i}" for i in range(len(files))] if labels is None else labels
    values = json.dumps({**SETTINGS, "labels": labels, **settings})
    png, svg = tmp_path / "figure2.png", tmp_path / "figure2.svg"
    inputs = ["--modules", *(str(m) for m, _ in files), "--allocations", *(str(a) for _, a in files)]
    return main(["figure2", *inputs, "--png", str(png), "--svg", str(svg), "--settings", values]), png, svg


def some_cells(layers, seed=0):
    every = [(layer, kind) for layer in range(layers) for kind in TYPES]
    return set(random.Random(seed).sample(every, len(every) // 5))


def svg_boxes(svg, colour):
    """Boxes (left, top, right, bottom) of the SVG's cells with this fill, found by their shape alone."""
    boxes = []
    for path in xml.parse(svg).getroot().iter("{http://www.w3.org/2000/svg}path"):
        if f"fill: {colour}" in path.get("style", "") and "stroke: #ffffff" in path.get("style", ""):
            points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
            boxes.append((*points.min(axis=0), *points.max(axis=0)))
    return np.array(boxes).reshape(-1, 4)


def grid(boxes, every):
    """Boxes as (column, row) in the grid that all cells span."""
    left, top, right, bottom = *every.min(axis=0)[:2], *every.max(axis=0)[2:]
    columns, rows = len(np.unique(every[:, 0].round(2))), len(np.unique(every[:, 1].round(2)))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return {(int((x - left) / (right - left) * columns), int((y - top) / (bottom - top) * rows)) for x, y in centres}


@pytest.mark.parametrize("layers", [4, 36])
def test_red_cells_are_the_fft_modules(tmp_path, placement, layers):
    full = some_cells(layers)
    status, png, svg = draw(tmp_path, [placement(layers, full)])
    assert status == 0
    red, pale = svg_boxes(svg, SETTINGS["full_colour"]), svg_boxes(svg, SETTINGS["lora_colour"])
    every = np.concatenate([red, pale])
    assert len(every) == layers * len(TYPES)
    expected = {(layer, TYPES.index(kind)) for layer, kind in full}
    assert grid(red, every) == expected
    assert pixel_grid(png, layers) == expected


def pixel_grid(png, layers):
    """(column, row) of the red cells, read from the picture: the axes' box is where red and pale pixels are (no legend)."""
    pixels = (matplotlib.image.imread(png)[..., :3] * 255).round().astype(int)
    pixels = pixels[: -int(0.4 * 150)]  # the legend's strip
    red, pale = (np.abs(pixels - colour).max(axis=-1) <= 1 for colour in (RED, PALE))
    rows, columns = np.nonzero(red | pale)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    width, height = (right - left) / layers, (bottom - top) / len(TYPES)
    found = set()
    for column in range(layers):
        for row in range(len(TYPES)):
            y, x = int(top + (row + 0.5) * height), int(left + (column + 0.5) * width)
            assert red[y, x] != pale[y, x]
            if red[y, x]:
                found.add((column, row))
    return found


def test_one_panel_per_allocation_each_with_its_own_model(tmp_path, placement):
    shallow, deep = {(0, "q"), (3, "down")}, {(11, "o")}
    status, _, svg = draw(tmp_path, [placement(4, shallow, "small"), placement(12, deep, "large")], ["small one", "large one"])
    assert status == 0
    names = {e.get("id"): e for e in xml.parse(svg).getroot().iter() if (e.get("id") or "").startswith("panel-")}
    red = {name for name, group in names.items() if "fill: #d62728" in xml.tostring(group, encoding="unicode")}
    assert red == {"panel-0-0-q", "panel-0-3-down", "panel-1-11-o"}
    assert len(names) == 7 * (4 + 12)


def test_same_bytes_again(tmp_path, placement):
    files = [placement(5, some_cells(5))]
    first = [path.read_bytes() for path in draw(tmp_path, files)[1:]]
    second = [path.read_bytes() for path in draw(tmp_path, files)[1:]]
    assert first == second


def test_manifest_names_the_inputs(tmp_path, placement):
    files = [placement(4, {(0, "q")})]
    _, png, _ = draw(tmp_path, files)
    record = json.loads((tmp_path / "figure2.png.manifest.json").read_text())
    assert list(record["inputs"]["allocations"]) == [str(files[0][1])]
    assert record["outputs"].keys() == {png.name}


def fails(capsys, status):
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    return error


def test_no_allocation_is_one_line(tmp_path, capsys):
    assert "no allocation to draw" in fails(capsys, draw(tmp_path, [])[0])


def test_labels_must_match(tmp_path, placement, capsys):
    assert "'labels' has 2 titles for 1" in fails(capsys, draw(tmp_path, [placement(4, set())], ["a", "b"])[0])


def test_allocation_of_another_model(tmp_path, placement, capsys):
    ours, theirs = placement(4, set(), "ours"), placement(4, set(), "theirs")
    error = fails(capsys, draw(tmp_path, [(ours[0], theirs[1])])[0])
    assert str(theirs[1]) in error and "'theirs'" in error


def test_allocation_that_lacks_a_module(tmp_path, placement, capsys):
    modules, allocation = placement(4, {(0, "q")})
    value = json.loads(allocation.read_text())
    lost = value["lora"]["names"].pop()
    allocation.write_text(json.dumps(value))
    assert lost in fails(capsys, draw(tmp_path, [(modules, allocation)])[0])
