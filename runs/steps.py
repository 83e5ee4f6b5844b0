"""Quality against the number of steps, from sweeps of a base and its student: a plot and a table.

    imagen-video sweep out/distilled/teacher --stage base --steps 1 2 4 8 16 32 \
        --moves ddim ancestral dpmpp_2m --count 64 --out out/sweep
    imagen-video sweep mini --stage base --steps 1 2 4 8 16 32 --count 64 --out out/sweep-student
    python runs/steps.py docs/steps.png out/sweep student=out/sweep-student

The teacher is mini's base in two calls where it is guided (runs/distilled.py train begins with it),
the student is as mini ships. A curve is a move, or what stands before "=" for all of a folder.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from study.plots import plain

MEASURES = ("FVD", "fit", "motion", "concept")
Points = dict[int, dict[str, dict[str, Any]]]


def curves(words: list[str]) -> dict[str, Points]:
    """What was measured of each curve, by steps and by measure."""
    found: dict[str, Points] = defaultdict(dict)
    for word in words:
        label, _, folder = word.rpartition("=")
        for row in json.loads((Path(folder) / "sweep.json").read_text()):
            sampler, measures = row["sampler"], row["section"]["measures"]
            wanted = {
                name: measure
                for name in MEASURES
                for measure in measures
                if measure["name"].startswith(name)
            }
            curve, steps = label or sampler["move"], sampler["num_steps"]
            if steps in found[curve]:
                sys.exit(f"{curve} has {steps} steps twice: give sweeps of one guidance and shift")
            found[curve][steps] = wanted
    return found


def draw(found: dict[str, Points], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(MEASURES), 3.4), layout="constrained")
    steps = sorted({n for points in found.values() for n in points})
    for ax, name in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for label, points in found.items():
            along = sorted(points)
            measures = [points[n][name] for n in along]
            values = [m["value"] for m in measures]
            (line,) = ax.plot(along, values, "o-", label=label, markersize=4)
            if all(m["low"] is not None for m in measures):
                ends = ([m[end] for m in measures] for end in ("low", "high"))
                ax.fill_between(along, *ends, color=line.get_color(), alpha=0.12, linewidth=0)
        ax.set(title=f"{name} (proxy)" if name in ("FVD", "fit") else f"{name}, right")
        ax.set(xlabel="steps", xscale="log", yscale="log" if name == "FVD" else "linear")
        plain(ax.xaxis, steps)
        if name == "FVD":
            plain(ax.yaxis)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=80)


def table(found: dict[str, Points]) -> str:
    """The same as Markdown, with intervals where there are any."""
    lines = [f"| | steps | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for label, points in found.items():
        for n in sorted(points):
            cells = [cell(points[n][name]) for name in MEASURES]
            lines.append(f"| {label} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(measure: dict[str, Any]) -> str:
    low, high = measure["low"], measure["high"]
    spread = "" if low is None else f" ({low:.3g} to {high:.3g})"
    return f"{measure['value']:.3g}{spread}"


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path, *words = sys.argv[1:]
    found = curves(words)
    draw(found, Path(path))
    print(table(found))


if __name__ == "__main__":
    main()
