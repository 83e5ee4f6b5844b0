"""report.html: one file with tables, plots and videos inside, to be opened anywhere."""

import base64
import io
from pathlib import Path
from typing import Any

import torch

from imagen_video.evaluation.report import Report, Section
from imagen_video.evaluation.scores import LOWER, Measure
from imagen_video.files import replacing
from imagen_video.metrics.measures import percent
from imagen_video.pictures import contact_sheet
from imagen_video.video import read_video, resize, to_float, to_uint8

SHOWN = 3
"""At most so many videos of each rank: best, median, worst."""
FAILURES = 100
STRIP, STRIP_HEIGHT = 4, 64
"""Frames that are shown of a failure, and their pixels."""
INK, EMBER = "#2563a8", "#c94f2f"


def write_page(report: Report, path: Path, *, videos: Path) -> None:
    """The report as a page that needs nothing beside it; `videos` holds 00000.mp4 and so on."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("imagen_video.evaluation", "."), autoescape=select_autoescape(["j2"])
    )
    environment.filters |= {"number": number}
    page = environment.get_template("page.html.j2").render(
        report=report,
        settings=flat(report.settings),
        plots=plots(report),
        gallery=gallery(report, videos),
        shades=shades,
        percent=percent,
        failures=failures(report, videos),
    )
    with replacing(path) as temporary:
        temporary.write_text(page)


def number(value: float | None) -> str:
    """Four digits; a dash for what was not measured."""
    return "-" if value is None else f"{value:.4g}"


def flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as one table."""
    rows = {}
    for name, value in settings.items():
        if name == "stages":
            continue  # their whole specs, which report.json holds
        if isinstance(value, dict):
            rows |= flat(value, f"{before}{name}: ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows[before + name] = text if len(text) < 200 else f"{text[:200]} ..."
    return rows


def shades(table: dict[str, dict[str, int]]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """A confusion table: the names of its columns, and rows of (count, share of its row, whether
    it is right)."""
    names = sorted(set(table) | {seen for row in table.values() for seen in row})
    rows = []
    for asked in sorted(table):
        total = sum(table[asked].values())
        rows.append(
            (
                asked,
                [
                    (table[asked].get(n, 0), table[asked].get(n, 0) / total, n == asked)
                    for n in names
                ],
            )
        )
    return names, rows


def gallery(report: Report, videos: Path) -> dict[str, list[dict[str, Any]]]:
    """The best, median and worst videos by the judges, as data URLs; those that came first, where
    there are not three or no judge."""
    rows = [row for row in report.ranking if (videos / f"{row['index']:05}.mp4").is_file()][::-1]
    shown = min(SHOWN, len(rows) // 3)
    if not shown or not any(row["right"] for row in rows):
        groups = {"Samples": rows[: 3 * SHOWN]}
    else:
        middle = (len(rows) - shown) // 2
        groups = {"Best": rows[:shown], "Median": rows[middle:][:shown], "Worst": rows[-shown:]}
    return {
        name: [
            row | {"url": data_url((videos / f"{row['index']:05}.mp4").read_bytes(), "video/mp4")}
            for row in members
        ]
        for name, members in groups.items()
    }


def failures(report: Report, videos: Path) -> list[dict[str, Any]]:
    """The worst of the samples in which a judge sees something else, some frames of each beside."""
    rows = [row for row in report.ranking if row["wrong"]][:FAILURES]
    paths = [videos / f"{row['index']:05}.mp4" for row in rows]
    return [
        row | {"strip": strip(path) if path.is_file() else None}
        for row, path in zip(rows, paths, strict=True)
    ]


def strip(video: Path) -> str:
    """STRIP small frames of a video side by side, as a data URL."""
    from PIL import Image

    frames = read_video(video).frames
    frames = frames[torch.linspace(0, len(frames) - 1, STRIP).round().long()]
    width = round(frames.shape[-1] * STRIP_HEIGHT / frames.shape[-2])
    shown = to_uint8(resize(to_float(frames)[None], STRIP_HEIGHT, width))[0]
    sheet, file = contact_sheet([shown], columns=STRIP), io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=85)
    return data_url(file.getvalue(), "image/jpeg")


def data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def plots(report: Report) -> dict[str, str]:
    """Title -> picture as a data URL."""
    from matplotlib.figure import Figure

    found = {}
    size = (4.6, 3.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for section in report.sections:
        frames = [place.frame / section.frames for place in section.by_position]
        values = [place.fid for place in section.by_position]
        (line,) = axes.plot(frames, values, label=section.name, linewidth=1.2)
        low, high = ([getattr(p, end) for p in section.by_position] for end in ("low", "high"))
        if None not in low:
            axes.fill_between(frames, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        true = [place.truth for place in section.by_position if place.truth is not None]
        if true:
            axes.plot(frames, true, ":", color=line.get_color(), linewidth=1)
    axes.set(xlabel="frame / frames (dotted: true clips)", ylabel=_label(report, "FID"))
    axes.legend(fontsize=7)
    found["FID by frame position"] = as_svg(figure)
    for title, (x, y) in {
        "Realism against variety": ("precision", "recall"),
        "Distance against alignment": ("R-precision", "FVD"),
        "Time against distance": ("seconds", "FID"),
    }.items():
        figure = Figure(figsize=size, layout="constrained")
        if pareto(figure.subplots(), report, x, y):
            found[title] = as_svg(figure)
    return found


def pareto(axes: Any, report: Report, x: str, y: str) -> bool:
    """A point a stage with its intervals, true clips as crosses where they have both; False if
    nothing is known. Stages are no rivals, so no front is drawn."""
    any_shown = False
    for section in report.sections:
        across, up = (_value(section, name) for name in (x, y))
        if across is None or up is None:
            continue
        any_shown, point = True, (across.value, up.value)
        for ends, line in ((across, axes.hlines), (up, axes.vlines)):
            if ends.low is not None:
                line(point[ends is across], ends.low, ends.high, color=INK, alpha=0.3)
        axes.plot(*point, "o", color=INK)
        axes.annotate(section.name, point, fontsize=8, xytext=(4, 3), textcoords="offset points")
        if across.truth is not None and up.truth is not None:
            axes.plot(across.truth, up.truth, "x", color=EMBER)
    axes.set(xlabel=_label(report, x), ylabel=_label(report, y))
    axes.margins(0.2)
    return any_shown


def _value(section: Section, name: str) -> Measure | None:
    """A measure or the seconds a video; None if it was not measured."""
    if name != "seconds":
        return _measure(section, name)
    if section.seconds is None:
        return None
    return Measure(name=name, value=section.seconds, of=0, better=LOWER)


def _measure(section: Section, name: str) -> Measure | None:
    return next((m for m in section.measures if m.name.startswith(name)), None)


def _label(report: Report, name: str) -> str:
    if name == "seconds":
        return "seconds a video"
    measure = next(filter(None, (_measure(s, name) for s in report.sections)), None)
    if measure is None:
        return name
    return f"{measure.name} (proxy)" if measure.proxy else measure.name


def as_svg(figure: Any) -> str:
    """A figure as a data URL, the same for the same figure."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "imagen-video", "font.size": 8}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return data_url(file.getvalue(), "image/svg+xml")
