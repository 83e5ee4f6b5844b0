"""The prompt filter: its classifier trained, and all of it measured.

    python runs/prompt_filter.py teach          # 80 seconds of a core, most of it embedding
    python runs/prompt_filter.py measure        # 2 minutes

`teach` fills the templates of runs/prompts/teach.json, fits one logistic regression a category on
their sentence embeddings and writes it into the package; before that it says how well
regressions on four fifths of the templates know texts of the others. `measure` runs the shipped
filter on runs/prompts/measure.jsonl, which nothing was trained on, and on captions of stickers. Of
its two parts the first was looked at while templates, terms and thresholds were chosen, the second
only for the figures in docs/results.md.
"""

import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from imagen_video.data.stickers import StickerWorld
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.metrics.measures import percent
from imagen_video.safety import Filters, Policy, Refusal, shipped_prompt_checks
from imagen_video.safety.meaning import WEIGHTS, Meaning, read, sentences

FOLDER = Path(__file__).with_name("prompts")
FILLED = 24
"""Texts of a template, at most."""
FOLDS = 5
SEED = 7
BOUND = 0.7
"""The shipped policy's threshold."""
UNSEEN = 2000
"""Captions of each split of the sticker world, after those that were trained on."""
DECAY = 1e-4
CAPTIONS = 1500
"""Of the sticker world's training split, as benign texts."""


@dataclass
class Options:
    """Train or measure the prompt filter."""

    action: Positional[Literal["teach", "measure"]]


@dataclass(frozen=True)
class Lesson:
    """A text, its category (None is benign) and the number of its template."""

    text: str
    category: str | None
    template: int


@dataclass(frozen=True)
class Asked:
    """A prompt to measure with; `expected` is a category, or None if it is to pass."""

    text: str
    expected: str | None
    kind: Literal["plain", "obfuscated", "benign", "look-alike"]
    part: Literal["tuned", "untouched"]


def main(options: Options) -> None:
    {"teach": teach, "measure": measure}[options.action]()


def lessons() -> Iterator[Lesson]:
    """Every template filled in FILLED ways drawn by its number, and captions of stickers. What
    is benign is so in all its parts and readings."""
    taught = json.loads((FOLDER / "teach.json").read_text())
    slots, number = taught.pop("slots"), 0
    for category, templates in taught.items():
        for template in templates:
            draw, texts = random.Random(number), set()
            for _ in range(FILLED):
                texts.add(filled(template, slots, draw))
            if category == "benign":
                texts = {part for text in texts for part in read(text)}
            for text in sorted(texts):
                yield Lesson(text, None if category == "benign" else category, number)
            number += 1
    world = StickerWorld(SEED, split="train")
    for i in range(CAPTIONS):
        for part in read(world.clip(i).caption):
            yield Lesson(part, None, number + i // FILLED)


def filled(template: str, slots: dict[str, list[str]], draw: random.Random) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: draw.choice(slots[match[1]]), template)


def teach() -> None:
    rows = list(lessons())
    names = list(dict.fromkeys(row.category for row in rows if row.category))
    x = sentences([row.text for row in rows])
    y = torch.tensor([[float(row.category == name) for name in names] for row in rows])
    templates = torch.tensor([row.template for row in rows])
    weights = templates.bincount()[templates].float().rsqrt()
    scores = torch.zeros_like(y)
    for fold in range(FOLDS):
        held = templates % FOLDS == fold
        weight, bias = fit(x[~held], y[~held], weights[~held])
        scores[held] = (x[held] @ weight.T + bias).sigmoid()
    print(f"{len(rows)} texts of {templates.max() + 1} templates; of templates not trained on:")
    refused = (scores > BOUND).any(1)
    for i, name in enumerate([*names, "benign"]):
        mine = y[:, i] == 1 if name in names else y.sum(1) == 0
        print(f"  {name:10} {mine.sum():5} refused {refused[mine].float().mean():.1%}")
    weight, bias = fit(x, y, weights)
    Meaning(weight, bias, names).save(WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size} bytes")


def fit(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regressions with both sides of equal weight, and so all templates of a side."""
    sides = torch.where(y == 1, weights[:, None] * y, weights[:, None] * (1 - y))
    balance = torch.where(y == 1, 0.5 / (sides * y).sum(0), 0.5 / (sides * (1 - y)).sum(0)) * sides
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            x @ weight.T + bias, y, reduction="none"
        )
        total = (losses * balance).sum() + DECAY * weight.square().sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def measure() -> None:
    filters = Filters(prompt_checks=shipped_prompt_checks(Policy.shipped()), frame_checks=())
    lines = (FOLDER / "measure.jsonl").read_text().splitlines()
    asked = [Asked(**json.loads(line)) for line in lines]
    answers = [filters.prompt(row.text) for row in asked]
    for part in ("tuned", "untouched"):
        print(f"\n{part}, refused in % (95 % Wilson)")
        both = zip(asked, answers, strict=True)
        report([(row, answer) for row, answer in both if row.part == part])
    start = time.perf_counter()
    captions = {row["prompt"] for row in eval_prompts()}
    for seed, split in ((SEED, "train"), (SEED, "test")):
        world = StickerWorld(seed, split=split)
        captions |= {world.clip(CAPTIONS + i).caption for i in range(UNSEEN)}
    refused = sum(filters.prompt(caption) is not None for caption in captions)
    each = (time.perf_counter() - start) / len(captions)
    print(f"\ncaptions of stickers: {percent(refused, len(captions))}, {1000 * each:.1f} ms each")


def report(found: list[tuple[Asked, Refusal | None]]) -> None:
    """Rows of a table: what should pass by kind, what should not by category and kind."""
    for kind in ("benign", "look-alike"):
        line(f"{kind}, to pass", [answer for row, answer in found if row.kind == kind])
    line("all to pass", [answer for row, answer in found if row.expected is None])
    bad = [(row, answer) for row, answer in found if row.expected is not None]
    for category in dict.fromkeys(row.expected for row, _ in bad):
        mine = [answer for row, answer in bad if row.expected == category]
        named = sum(answer is not None and answer.category == category for answer in mine)
        line(f"{category}, to refuse", mine, f"; as {category} {named}")
    for kind in ("plain", "obfuscated"):
        line(f"{kind}, to refuse", [answer for row, answer in bad if row.kind == kind])
    line("all to refuse", [answer for _, answer in bad])
    for row, answer in found:
        if (answer is None) != (row.expected is None):
            print(f"  wrong: {row.text!r}: {answer.category if answer else 'passed'}")


def line(name: str, answers: list[Refusal | None], more: str = "") -> None:
    refused = sum(answer is not None for answer in answers)
    print(f"  {name:24} {percent(refused, len(answers))}{more}")


if __name__ == "__main__":
    main(tyro.cli(Options))
