"""The ways of a sweep beside each other: in order, as a table and as a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagen_video.evaluation.page import EMBER, INK
from imagen_video.evaluation.report import Section, judges_line
from imagen_video.evaluation.scores import Measure
from imagen_video.files import replacing
from imagen_video.spec import SamplerSpec


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way of sampling and what came of it, with what to know and the settings of the numbers;
    `behind`, how much larger its FVD is than that of the best row, over the same prompts."""

    name: str
    curve: str
    sampler: SamplerSpec
    section: Section
    behind: Measure | None = None
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def measure(self, name: str) -> Measure | None:
        """A measure by the first letters of its name."""
        return next((m for m in self.section.measures if m.name.startswith(name)), None)


def in_order(rows: list[Row]) -> list[Row]:
    """Best first: of the settings whose videos fit their prompts as well as any (within the 95 %
    interval of the best), the one with the lowest FVD; then the others, by FVD."""

    def distance(row: Row) -> float:
        found = row.measure("FVD")
        assert found is not None
        return found.value

    fits = [row.measure("fit") or row.measure("CLIP score") for row in rows]
    top = max((fit for fit in fits if fit), key=lambda fit: fit.value, default=None)
    least = -math.inf if top is None or top.low is None else top.low
    well = [fit is None or fit.value >= least for fit in fits]
    order = sorted(zip(well, rows, strict=True), key=lambda pair: (not pair[0], distance(pair[1])))
    return [row for _, row in order]


def draw(rows: list[Row], path: Path) -> None:
    """FVD against alignment with their intervals, a curve over the guidance for everything else;
    the best is marked, and what nothing beats in both. (Differences over the same prompts, which
    are in the table, are known far better than the intervals of two points let expect.)"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, float, str]]] = {}
    label = ["no measure of alignment", "FVD"]
    for row in sorted(rows, key=lambda row: row.sampler.guidance.weight):
        across, up = row.measure("fit") or row.measure("CLIP score"), row.measure("FVD")
        assert up is not None
        label[1] = f"{up.name}{' (proxy)' if up.proxy else ''}, lower is better"
        if across:
            label[0] = f"{across.name}{' (proxy)' if across.proxy else ''}, higher is better"
        point = (across.value if across else 0.0, up.value, row.name.rpartition("guidance ")[2])
        curves.setdefault(row.curve, []).append(point)
        bars = {"xerr": _bar(across), "yerr": _bar(up), "fmt": "none", "ecolor": "0.8"}
        axes.errorbar(*point[:2], **bars, elinewidth=0.8, zorder=0)
        if row is rows[0]:
            axes.plot(*point[:2], "*", color=EMBER, markersize=14, zorder=1)
    better = front([point[:2] for points in curves.values() for point in points])
    line = {"color": "0.85", "linewidth": 7, "zorder": 0, "label": "no mean is better in both"}
    axes.plot(*zip(*better, strict=True), **line)
    for name, points in curves.items():
        color = INK if len(curves) == 1 else None
        axes.plot([p[0] for p in points], [p[1] for p in points], "o-", label=name, color=color)
        for across, up, text in points:
            axes.annotate(text, (across, up), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=label[0], ylabel=label[1])
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _bar(measure: Measure | None) -> list[list[float]] | None:
    """How far its interval reaches down and up, as matplotlib has it."""
    if measure is None or measure.low is None or measure.high is None:
        return None
    return [[measure.value - measure.low], [measure.high - measure.value]]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (alignment, distance) of which no other is as good in both and better in one, by
    alignment."""
    found: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found[::-1]


def as_table(rows: list[Row]) -> str:
    """The settings, best first, with what matters of each and its 95 % interval."""
    names = ("FID", "FVD", "psnr", "fit", "CLIP score", "R-precision")
    names += ("motion", "concept", "style", "background", "rotation")
    shown = [name for name in names if any(row.measure(name) for row in rows)]
    width = max(len(row.name) for row in rows) + 2
    heads = [
        f"{name} (proxy)" if any(m.proxy for row in rows if (m := row.measure(name))) else name
        for name in shown
    ] + ["FVD above the best's"]
    lines = [f"{'':{width}}" + "".join(f"{head:>26}" for head in heads)]
    for row in rows:
        cells = [_cell(row.measure(name)) for name in shown] + [_cell(row.behind)]
        lines.append(f"{row.name:{width}}" + "".join(f"{cell:>26}" for cell in cells))
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    lines += [*judges_line(rows[0].section), *(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    known = measure.low is not None and measure.high is not None
    return f"{measure.value:.4g}" + (f" ({measure.low:.4g} to {measure.high:.4g})" if known else "")
