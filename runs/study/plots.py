"""Small plots of the studies, one PNG each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from study.arms import REFERENCE
from study.measure import FEW_STEPS, WEIGHTS
from study.statistics import over_seeds
from study.tables import BIAS_ARMS, BIAS_KEYS, STUDENTS
from study.upsampling import LEVELS
from study.world import PARTS

Results = Mapping[str, Mapping[int, dict[str, Any]]]
DPI = 80


def plot_all(results: Results, folder: Path) -> Iterator[Path]:
    """Every plot whose arms have results."""
    for name, (arms, draw) in PLOTS.items():
        if all(arm in results for arm in arms):
            figure = draw(results)
            path = folder / f"study-{name}.png"
            figure.savefig(path, dpi=DPI)
            yield path


def axes(count: int, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 3.2 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, count, squeeze=False).flat)


ANY, PER_CENT, SHARE = (-math.inf, math.inf), (0.0, 100.0), (0.0, 1.0)


def lined(
    ax: Any,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    within: tuple[float, float] = ANY,
    **style: Any,
) -> None:
    """Means over seeds along x, with their intervals as far as there can be values."""
    found = [over_seeds(v, *within) for v in values]
    means = [f.mean for f in found]
    spread = [[f.mean - f.low for f in found], [f.high - f.mean for f in found]]
    seeds = min(len(v) for v in values)
    ax.errorbar(x, means, yerr=spread if seeds > 1 else None, capsize=2, label=label, **style)


def plain(axis: Any, ticks: Sequence[float] | None = None) -> None:
    """Plain numbers along an axis in powers, at these ticks if given."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def measured(results: Results, arm: str) -> list[dict[str, Any]]:
    return [result["measured"] for result in results[arm].values()]


def percent(pair: Sequence[int]) -> float:
    return 100 * pair[0] / pair[1]


def prediction(results: Results) -> Any:
    names = ("first frame FID (proxy)", "colour shift", "colour flicker")
    figure, places = axes(len(names))
    for ax, name in zip(places, names, strict=True):
        for arm in ("v", "eps"):
            points: dict[int, list[float]] = {}
            for result in results[f"prediction/{arm}"].values():
                for step, facts in result["looks"].items():
                    points.setdefault(int(step), []).append(facts[name])
                points.setdefault(result["steps"], []).append(result["measured"][name])
            lined(ax, list(points), list(points.values()), arm)
        ax.set(xlabel="steps", title=name, yscale="log")
        plain(ax.yaxis)
        ax.legend()
    return figure


def joint(results: Results) -> Any:
    arms = {
        "joint": REFERENCE,
        "stills without\nline art": "joint/no line art",
        "videos only": "joint/videos only",
        "fewer videos\nonly": "joint/fewer videos only",
    }
    figure, places = axes(2)
    for ax, group in zip(places, ("seen", "style of stills"), strict=True):
        for question in ("concept", "style", "motion"):
            values = [
                [percent(m["right"][group][question]) for m in measured(results, arm)]
                for arm in arms.values()
            ]
            lined(ax, range(len(arms)), values, question, PER_CENT, marker="o", linestyle="none")
        ax.set(title={"seen": "styles that move"}.get(group, "line art, in stills only"))
        ax.set(ylabel="right, %", ylim=(0, 103))
        ax.set_xticks(range(len(arms)), list(arms), fontsize=7)
        ax.legend(fontsize=7)
    return figure


def size(results: Results) -> Any:
    arms = ("size/small", REFERENCE, "size/large")
    millions = [next(iter(results[arm].values()))["parameters"] / 1e6 for arm in arms]
    figure, (right, far) = axes(2)
    for question in ("concept", "style", "motion"):
        values = [
            [percent(m["right"]["seen"][question]) for m in measured(results, arm)] for arm in arms
        ]
        lined(right, millions, values, question, PER_CENT, marker="o")
    lined(far, millions, [[m["frechet"] for m in measured(results, a)] for a in arms], "Frechet")
    right.set(xlabel="million parameters", ylabel="right, %", title="what training showed")
    far.set(xlabel="million parameters", title="Frechet distance")
    right.legend(fontsize=7)
    return figure


def upsampled(arms: Mapping[str, str]) -> Callable[[Results], Any]:
    """Frechet distance and concept by the level of noise, from the base and from truth."""

    def draw(results: Results) -> Any:
        figure, places = axes(2)
        for ax, source in zip(places, ("base", "truth"), strict=True):
            for name, arm in arms.items():
                values = [
                    [
                        row["frechet"]
                        for m in measured(results, arm)
                        for row in m["rows"]
                        if row["source"] == source and row["level"] == f"{level:g}"
                    ]
                    for level in LEVELS
                ]
                lined(ax, LEVELS, values, name, marker="o")
            ax.set(xlabel="log-SNR of the small clip", title=f"Frechet distance, from {source}")
            ax.legend(fontsize=7)
        return figure

    return draw


def guidance(results: Results) -> Any:
    figure, places = axes(3)
    rows = [row for m in measured(results, "guidance/base") for row in m["settings"]]
    pulls: dict[str, Callable[[dict[str, Any]], float]] = {
        "mean saturation": lambda row: row["saturation"],
        "everything right, %": lambda row: percent(row["right"]["everything"]),
        "Frechet distance": lambda row: row["frechet"],
    }
    for ax, (title, pull) in zip(places, pulls.items(), strict=True):
        within = PER_CENT if title.endswith("%") else ANY
        off = over_seeds([pull(row) for row in rows if row["guidance"] == "off"]).mean
        ax.axhline(off, color="grey", linewidth=0.7, linestyle=":", label="no guidance")
        for kind in ("constant", "oscillating"):
            for threshold in ("static", "dynamic"):
                values = [
                    [
                        pull(row)
                        for row in rows
                        if row["guidance"] == f"{kind} {w:g}" and row["threshold"] == threshold
                    ]
                    for w in WEIGHTS
                ]
                line = "-" if threshold == "static" else "--"
                lined(ax, WEIGHTS, values, f"{kind}, {threshold}", within, linestyle=line)
        ax.set(xlabel="guidance weight", title=title, xscale="log")
        plain(ax.xaxis, WEIGHTS)
    truth = [m["truth"]["saturation"] for m in measured(results, "guidance/base")]
    places[0].axhline(truth[0], color="black", linewidth=0.7, label="true clips")
    places[0].legend(fontsize=7)
    return figure


def generalisation(results: Results) -> Any:
    bars = {
        "pair: motion": (REFERENCE, "motion"),
        "pair: thing": (REFERENCE, "concept"),
        "rotation: turns": ("generalisation/rotation", "motion"),
        "rotation: direction": ("generalisation/rotation", "direction"),
        "rotation: thing": ("generalisation/rotation", "concept"),
        "word: whole": ("generalisation/words", "everything"),
    }
    figure, (ax,) = axes(1)
    for group in ("seen", "held out"):
        values = [
            [percent(m["right"][group][question]) for m in measured(results, arm)]
            for arm, question in bars.values()
        ]
        lined(ax, range(len(bars)), values, group, PER_CENT, marker="o", linestyle="none")
    ax.set(ylabel="right, %", ylim=(0, 103))
    ax.set_xticks(range(len(bars)), list(bars), rotation=20, fontsize=7)
    ax.legend(fontsize=7)
    return figure


def distillation(results: Results) -> Any:
    figure, (right, far) = axes(2)
    rows = [m["rows"] for m in measured(results, "distillation/teacher")]
    found = {"teacher, guided": {n: [r[i] for r in rows] for i, n in enumerate(FEW_STEPS)}}
    for label, kind in (("halving", ""), ("stochastic", " stochastic")):
        arms = {n: f"distillation/{n}{kind}" for n in FEW_STEPS}
        found[label] = {n: measured(results, arm) for n, arm in arms.items() if arm in results}
    for label, by_steps in found.items():
        known = list(by_steps.values())
        answers = [[percent(m["right"]["seen"]["everything"]) for m in each] for each in known]
        lined(right, list(by_steps), answers, label, PER_CENT, marker="o")
        lined(
            far, list(by_steps), [[m["frechet"] for m in each] for each in known], label, marker="o"
        )
    for ax, title in ((right, "everything right, %"), (far, "Frechet distance")):
        ax.set(xlabel="steps", title=title, xscale="log")
        plain(ax.xaxis, FEW_STEPS)
    far.set(yscale="log")
    plain(far.yaxis)
    right.legend(fontsize=7)
    return figure


def bias(results: Results) -> Any:
    figure, places = axes(len(PARTS), len(BIAS_ARMS))
    for ax, ((name, arm), part) in zip(places, product(BIAS_ARMS, PARTS), strict=True):
        found = measured(results, arm)
        data = found[0]["data"][part]
        counts = {w: [m["weights"][w]["counts"][part] for m in found] for w in BIAS_KEYS}
        seen = [value for each in counts.values() for count in each for value in count]
        values = list(dict.fromkeys([*data, *seen]))  # what the data does not show comes last
        for weight, each in counts.items():
            shares = [[c.get(v, 0) / sum(c.values()) for c in each] for v in values]
            label = f"guidance {weight}"
            lined(ax, range(len(values)), shares, label, SHARE, marker="o", linestyle="none")
        held = [data.get(value, 0) for value in values]
        ax.bar(range(len(values)), held, color="lightgrey", label="data")
        ax.set(title=f"{part}, {name}", ylim=(0, None))
        ax.set_xticks(range(len(values)), [v.replace(" ", "\n") for v in values], fontsize=7)
    places[0].legend(fontsize=7)
    return figure


AUGMENTED = {"augmented": "reference/ssr", "not augmented": "augmentation/none"}
TOLD = {"text at both": "reference/ssr", "at the base only": "text/base only"}
PLOTS: dict[str, tuple[tuple[str, ...], Callable[[Results], Any]]] = {
    "prediction": (("prediction/v", "prediction/eps"), prediction),
    "joint": (
        (REFERENCE, "joint/no line art", "joint/videos only", "joint/fewer videos only"),
        joint,
    ),
    "size": ((REFERENCE, "size/small", "size/large"), size),
    "augmentation": (tuple(AUGMENTED.values()), upsampled(AUGMENTED)),
    "guidance": (("guidance/base",), guidance),
    "text": (tuple(TOLD.values()), upsampled(TOLD)),
    "generalisation": (
        (REFERENCE, "generalisation/rotation", "generalisation/words"),
        generalisation,
    ),
    "bias": (tuple(arm for _, arm in BIAS_ARMS), bias),
    "distillation": (
        ("distillation/teacher", *(f"distillation/{name}" for name in STUDENTS)),
        distillation,
    ),
}
