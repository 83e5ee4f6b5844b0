"""Tables and plots of what there is so far, with 95 % intervals over seeds."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagen_video.files import replacing
from imagen_video.metrics.measures import percent
from study.arms import REFERENCE, SEEDS, table
from study.library import LIBRARIES
from study.plots import plot_all
from study.probe import shares_of
from study.statistics import Interval, departure, difference, over_seeds
from study.tables import BIAS_ARMS, BIAS_KEYS, Column, Line, Table, tables
from study.train import RESULT
from study.world import PARTS

KEPT = "studies.jsonl"
Results = Mapping[str, Mapping[int, dict[str, Any]]]


def report(out: Path, docs: Path | None) -> None:
    """Write report.json, report.md and the plots into `out`; the plots into `docs` too, and what
    every arm has measured, which is read there when `out` is of another machine."""
    results = read(out, docs)
    out.mkdir(parents=True, exist_ok=True)
    if docs:
        keep(results, docs)
    made = [rows for rows in map(lambda t: compared(t, results), tables()) if rows["lines"]]
    biased = bias(results)
    with replacing(out / "report.json") as path:
        facts = {"tables": made, "bias": biased, "missing": missing(results)}
        path.write_text(json.dumps(facts, indent=1, default=asdict) + "\n")
    ends = (bias_markdown(biased), judges_markdown(results), missing_markdown(results))
    text = "\n\n".join([*map(markdown, made), *ends])
    with replacing(out / "report.md") as path:
        path.write_text(text.strip() + "\n")
    for plot in plot_all(results, out):
        if docs:
            shutil.copy(plot, docs)
    done = [result for arm in results.values() for result in arm.values()]
    # Arms from before they were added up have those of their last run.
    hours = sum(r.get("seconds", r.get("seconds of the last run", 0)) for r in done) / 3600
    print(f"{text}\n\nThese arms took {hours:.1f} core-hours or more.")


def read(out: Path, docs: Path | None = None) -> Results:
    """What every finished arm has measured, by seed, here or kept in `docs`."""
    kept = docs / KEPT if docs else None
    lines = kept.read_text().splitlines() if kept and kept.exists() else []
    lines += [path.read_text() for path in sorted(out.glob(f"*/*-*/{RESULT}"))]
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for result in map(json.loads, lines):
        found.setdefault(result["arm"], {})[result["seed"]] = result
    return found


def keep(results: Results, docs: Path) -> None:
    """Write what every arm has measured, a line each."""
    docs.mkdir(parents=True, exist_ok=True)
    rows = [results[arm][seed] for arm in sorted(results) for seed in sorted(results[arm])]
    with replacing(docs / KEPT) as path:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def missing(results: Results) -> list[str]:
    return [f"{k}-{s}" for k in table() for s in SEEDS if s not in results.get(k, {})]


def by_seed(line: Line, column: Column, results: Results) -> dict[int, float]:
    """A number of every seed of a line."""
    return {
        seed: column.of(line.part(result["measured"]))
        for seed, result in results.get(line.arm, {}).items()
    }


def compared(about: Table, results: Results) -> dict[str, Any]:
    """Means with intervals of all lines that have results, and their differences to the first."""
    lines = []
    for line in about.lines:
        if line.arm not in results:
            continue
        values = {column.name: by_seed(line, column, results) for column in about.columns}
        first = {column.name: by_seed(about.lines[0], column, results) for column in about.columns}
        lines.append(
            {
                "name": line.name,
                "seeds": sorted(results[line.arm]),
                "values": {
                    name: over_seeds(list(v.values()), *((0, 100) if name.endswith("%") else ()))
                    for name, v in values.items()
                },
                "difference": {name: difference(v, first[name]) for name, v in values.items()},
            }
        )
    return {"study": about.study, "title": about.title, "lines": lines}


def markdown(rows: Mapping[str, Any]) -> str:
    """A table of means with intervals, one of differences to its first line below."""
    lines = rows["lines"]
    names = list(lines[0]["values"])
    seeds = max(len(line["seeds"]) for line in lines)
    parts = [f"### {rows['title']}", f"Mean of {seeds} seeds (95 % interval)."]
    parts.append(grid(names, {line["name"]: line["values"] for line in lines}))
    others = {line["name"]: line["difference"] for line in lines[1:]}
    if others:
        parts.append(f"Less what *{lines[0]['name']}* has, seed by seed:")
        parts.append(grid(names, others))
    return "\n\n".join(parts)


def grid(names: list[str], lines: Mapping[str, Mapping[str, Interval | None]]) -> str:
    """A table in Markdown."""
    head = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    body = [
        f"| {line} | {' | '.join(str(values[name] or '') for name in names)} |"
        for line, values in lines.items()
    ]
    return "\n".join([*head, *body])


def bias(results: Results) -> list[dict[str, Any]]:
    """How far what neutral prompts give is from the data, by arm, guidance and attribute: of each
    seed, as networks may lean in different ways, with intervals over seeds."""
    found = []
    for name, arm in BIAS_ARMS:
        measured = [result["measured"] for result in results.get(arm, {}).values()]
        stills = of_stills(arm) if measured else {}
        for weight in BIAS_KEYS if measured else ():
            rights = [m["weights"][weight]["right"]["concept"] for m in measured]
            thing = over_seeds([100 * right / of for right, of in rights], 0, 100)
            for part in PARTS:
                counts = [m["weights"][weight]["counts"][part] for m in measured]
                expected = measured[0]["data"][part]
                values = sorted({value for each in counts for value in each} | expected.keys())
                shares = {
                    v: over_seeds([each.get(v, 0) / sum(each.values()) for each in counts], 0, 1)
                    for v in values
                }
                about = {"arm": name, "weight": weight, "attribute": part, "data": expected}
                about["stills"] = stills.get(part, {})
                departures = [departure(each, expected) for each in counts]
                variation = over_seeds([d.variation for d in departures], 0, 1)
                about |= {"departures": departures, "variation": variation, "thing": thing}
                found.append(about | {"shares": shares})
    return found


def of_stills(arm: str) -> dict[str, dict[str, float]]:
    """By attribute, the shares of the stills that an arm is trained on, beside the clips; they do
    not move."""
    row = table()[arm]
    diet = row.diet or table()[row.of or REFERENCE].diet
    assert diet is not None, arm
    known = LIBRARIES[diet.library].facts("stills")
    facts = [known[i].known() for i in diet.chosen("stills")]
    return {part: shares_of(facts, part) for part in PARTS if part in facts[0]}


def bias_markdown(rows: list[dict[str, Any]]) -> str:
    """Total variation from the data's clips, that of each seed and what chance alone gives, the
    largest p of their tests; then every share, with those of clips and stills that it is trained
    on."""
    if not rows:
        return ""
    lines = ["### Bias under prompts that name a thing alone", ""]
    head = ["data", "guidance", "thing right, %", "attribute", "total variation", "of each seed"]
    head += ["by chance", "largest p", "shares (of clips; of stills)"]
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for r in rows:
        each, data = r["departures"], r["data"]
        seeds = ", ".join(f"{d.variation:.2f}" for d in each)
        chance = sum(d.by_chance for d in each) / len(each)
        apart = f"{r['variation']} | {seeds} | {chance:.3f} | {max(d.p for d in each):.2g}"
        shares = ", ".join(
            f"{v} {s} ({data.get(v, 0):.2f}; {r['stills'].get(v, 0):.2f})"
            for v, s in r["shares"].items()
        )
        about = f"{r['arm']} | {r['weight']} | {r['thing']} | {r['attribute']}"
        lines.append(f"| {about} | {apart} | {shares} |")
    return "\n".join(lines)


def judges_markdown(results: Results) -> str:
    """How often the judges are right on ground truth: no arm can be seen to do better."""
    of_arms = [r.get("judges", {}) for by_seeds in results.values() for r in by_seeds.values()]
    lines = []
    for name in sorted({name for judges in of_arms for name in judges}):
        each = [judges[name] for judges in of_arms if name in judges]
        for question in each[0]:
            shares = sorted({percent(*judge[question]) for judge in each})
            lines.append(f"| {name} | {question} | {', '.join(shares)} |")
    if not lines:
        return ""
    head = ["### The judges themselves, on ground truth that they have not seen", ""]
    return "\n".join([*head, "| judge | question | right |", "|---|---|---|", *lines])


def missing_markdown(results: Results) -> str:
    absent = missing(results)
    return f"Not finished: {', '.join(absent)}." if absent else ""
