"""Which numbers of which arms stand beside each other: the tables of the eight studies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.arms import REFERENCE
from study.measure import BIAS_WEIGHTS, FEW_STEPS, WEIGHTS
from study.upsampling import LEVELS

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A number of a line: higher or lower is better, or neither."""

    name: str
    of: Callable[[Facts], float]


@dataclass(frozen=True)
class Line:
    """An arm, or a part of what was measured of it."""

    name: str
    arm: str
    part: Callable[[Facts], Facts]


@dataclass(frozen=True)
class Table:
    """Lines to compare; differences are to the first one."""

    study: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def share(question: str) -> Column:
    """Right answers to a question, in per cent."""

    def of(facts: Facts) -> float:
        right, count = facts["right"][question]
        return 100 * right / count

    return Column(f"{question}, %", of)


def number(name: str, title: str = "") -> Column:
    return Column(title or name, lambda facts: facts[name])


def group(name: str) -> Callable[[Facts], Facts]:
    """The answers about one group of scenes."""
    return lambda facts: {**facts, "right": facts["right"][name]}


def row(rows: str, **wanted: Any) -> Callable[[Facts], Facts]:
    """The row of a list that is of these settings."""

    def part(facts: Facts) -> Facts:
        return next(r for r in facts[rows] if all(r[k] == v for k, v in wanted.items()))

    return part


def whole(facts: Facts) -> Facts:
    return facts


RIGHT = tuple(map(share, ("concept", "style", "motion", "background", "everything")))
BASE = (*RIGHT, number("frechet", "Frechet"))
FINE = (share("concept"), share("style"), number("frechet", "Frechet"))


def tables() -> list[Table]:
    """All of them, in the order of the issue."""
    return [
        *prediction(),
        *joint(),
        Table(
            "size",
            "Model size, equal steps: what training showed",
            BASE,
            tuple(
                Line(name, arm, group("seen"))
                for name, arm in (
                    ("medium", REFERENCE),
                    ("small", "size/small"),
                    ("large", "size/large"),
                )
            ),
        ),
        *augmentation(),
        guidance(),
        *text(),
        *generalisation(),
        distillation(),
    ]


def prediction() -> list[Table]:
    columns = tuple(
        map(
            number,
            ("first frame FID (proxy)", "colour shift", "colour flicker", "change error", "psnr"),
        )
    )
    lines = tuple(Line(name, f"prediction/{name}", whole) for name in ("v", "eps"))
    return [Table("prediction", "v- against eps-prediction, 192x320 on crops", columns, lines)]


def joint() -> list[Table]:
    arms = (
        ("joint", REFERENCE),
        ("stills without line art", "joint/no line art"),
        ("videos only, as many sequences", "joint/videos only"),
        ("videos only, as many videos", "joint/fewer videos only"),
    )
    return [
        Table(
            "joint",
            title,
            columns,
            tuple(Line(name, arm, group(part)) for name, arm in arms),
        )
        for title, part, columns in (
            ("Joint training: styles that move in training", "seen", BASE),
            (
                "Joint training: line art, seen in stills alone, asked to move",
                "style of stills",
                RIGHT,
            ),
        )
    ]


def augmentation() -> list[Table]:
    arms = (("augmented", "reference/ssr"), ("not augmented", "augmentation/none"))
    return upsampled("augmentation", "Conditioning augmentation", arms)


def text() -> list[Table]:
    arms = (("text at both stages", "reference/ssr"), ("text at the base only", "text/base only"))
    return upsampled("text", "Text", arms)


def upsampled(study: str, title: str, arms: tuple[tuple[str, str], ...]) -> list[Table]:
    """Arms of an upsampling stage from both sources, at equal noise."""
    fine = (*FINE, number("psnr", "PSNR, dB"))
    sources = (("base", "on the base's output", FINE), ("truth", "on true small clips", fine))
    tables = []
    for source, told, columns in sources:
        only = Line("enlarged only", arms[0][1], row("rows", source=source, level="none"))
        for level in LEVELS:
            part = row("rows", source=source, level=f"{level:g}")
            lines = (*(Line(name, arm, part) for name, arm in arms), only)
            tables.append(Table(study, f"{title} {told}, log-SNR {level:g}", columns, lines))
    return tables


def guidance() -> Table:
    columns = (
        *(share(q) for q in ("concept", "style", "motion", "background", "everything")),
        number("saturation"),
        Column("clipped, %", lambda facts: 100 * facts["clipped"]),
        number("frechet", "Frechet"),
    )
    lines = [Line("off", "guidance/base", row("settings", guidance="off"))]
    for weight in WEIGHTS:
        for kind in ("constant", "oscillating"):
            for threshold in ("static", "dynamic"):
                name = f"{kind} {weight:g}"
                part = row("settings", guidance=name, threshold=threshold)
                lines.append(Line(f"{name}, {threshold}", "guidance/base", part))
    return Table("guidance", "Guidance: saturation and alignment", columns, tuple(lines))


def generalisation() -> list[Table]:
    pairs = tuple(
        Line(f"{name}: {title}", arm, group(part))
        for part, title in (("held out", "the six pairs"), ("seen", "all others"))
        for name, arm in (("pairs held out", REFERENCE), ("all shown", "generalisation/all pairs"))
    )
    turning = tuple(
        Line(title, "generalisation/rotation", group(part))
        for part, title in (
            ("held out", "things that never rotate in training"),
            ("seen", "things that do"),
            ("truth", "true clips"),
        )
    )
    words = tuple(
        Line(title, "generalisation/words", group(part))
        for part, title in (("held out", "words never shown"), ("seen", "words shown"))
    )
    letters = (Column("letters, %", letters_right), share("everything"))
    return [
        Table("generalisation", "Pairs of thing and motion", RIGHT, pairs),
        Table(
            "generalisation",
            "Rotation in 3D",
            tuple(map(share, ("concept", "motion", "direction"))),
            turning,
        ),
        Table("generalisation", "Words of three letters", letters, words),
    ]


STUDENTS = ("8", "8 stochastic", "4", "2")


def distillation() -> Table:
    seen = group("seen")
    lines = [
        Line(
            f"teacher, {n}",
            "distillation/teacher",
            lambda facts, n=n: seen(row("rows", steps=n)(facts)),
        )
        for n in FEW_STEPS
    ]
    lines += [Line(f"student, {name}", f"distillation/{name}", seen) for name in STUDENTS]
    return Table("distillation", "Students and their teacher by steps", BASE, tuple(lines))


def letters_right(facts: Facts) -> float:
    """Letters read as asked for, in per cent."""
    pairs = [facts["right"][f"letter {i}"] for i in range(3)]
    return 100 * sum(right for right, _ in pairs) / sum(of for _, of in pairs)


BIAS_ARMS = (
    ("even data, all said", "bias/even"),
    ("even data", "bias/even, unsaid"),
    ("skewed data", "bias/skewed"),
)
BIAS_KEYS = tuple(f"{weight:g}" for weight in BIAS_WEIGHTS)
