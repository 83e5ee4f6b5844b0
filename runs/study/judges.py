"""The judges of the sub-world: trained on ground truth alone, each carries its own accuracy.

`moves` looks at a clip of the base, `looks` at four frames of a finer one, `reads` at the letters
of a word. What `moves` and `looks` make of a clip before they answer are the features that the
studies' Frechet distances compare.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.data.stickers.scene import Attributes
from imagen_video.metrics.clipnet import ClipNet, ViewSpec, view
from imagen_video.metrics.judge import (
    Accuracy,
    Facts,
    Judge,
    JudgeSpec,
    Question,
    nearest_colour,
    outputs,
    split,
)
from imagen_video.shapes import Float
from imagen_video.video import Frames
from study.library import FINE, Library, render_missing
from study.world import (
    COLOUR_TABLE,
    CONCEPTS,
    MOTIONS,
    STILL_STYLE,
    STYLES,
    Draw,
    DrawWords,
)

TURNS = "rotating in 3D"
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
ALL_STYLES = (*STYLES, STILL_STYLE)
STRINGS = tuple(a + b + c for a in LETTERS for b in LETTERS for c in LETTERS)
SEEN = Draw(styles=ALL_STYLES, motions=(*MOTIONS, "standing still", *SOLID_MOTIONS))
SPOIL = 0.06
"""The most noise on what a judge learns from, so that small blemishes are forgiven."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a judge looks at, what it learns from and is measured on, and for how long."""

    spec: JudgeSpec
    library: Library
    held_out: Library
    steps: int
    batch: int = 24


def lessons() -> dict[str, Lesson]:
    look = (Question("concept", CONCEPTS), Question("style", ALL_STYLES))
    moves = ViewSpec(frames=8, height=24, width=24, over_time=True, widths=(32, 64))
    looks = ViewSpec(frames=4, height=48, width=48, over_time=False, widths=(32, 48, 64))
    reads = ViewSpec(frames=1, height=24, width=24, over_time=False, widths=(48, 96))
    letters = tuple(Question(f"letter {i}", LETTERS) for i in range(3))
    motion = Question("motion", (*MOTIONS, "standing still", TURNS))
    still = Draw(styles=ALL_STYLES)
    strings = DrawWords(STRINGS)
    return {
        "moves": Lesson(
            spec=JudgeSpec(view=moves, questions=(*look, motion)),
            library=Library(name="moving lessons", draw=SEEN, clips=6144, first=2 * 10**6),
            held_out=Library(name="moving exam", draw=SEEN, clips=512, first=3 * 10**6),
            steps=500,
        ),
        "looks": Lesson(
            spec=JudgeSpec(view=looks, questions=look),
            library=Library(
                name="fine lessons", draw=still, format=FINE, clips=4096, first=4 * 10**6
            ),
            held_out=Library(name="fine exam", draw=still, format=FINE, clips=512, first=5 * 10**6),
            steps=1200,
        ),
        "reads": Lesson(
            spec=JudgeSpec(view=reads, questions=letters),
            library=Library(
                name="letter lessons", draw=strings, clips=0, stills=8192, first=6 * 10**6
            ),
            held_out=Library(
                name="letter exam", draw=strings, clips=0, stills=512, first=7 * 10**6
            ),
            steps=1000,
            batch=64,
        ),
    }


def answer(facts: Attributes, question: str) -> str:
    """The right answer about a scene."""
    if question.startswith("letter"):
        assert facts.word, facts
        return facts.word[int(question.removeprefix("letter "))]
    told = getattr(facts, question)
    return TURNS if told in SOLID_MOTIONS else told


def kind_of(library: Library) -> str:
    return "clips" if library.clips else "stills"


def learned(lesson: Lesson, pixels: dict[str, Tensor]) -> ClipNet:
    """A network that has learned to answer, from endless turns through its library."""
    torch.manual_seed(0)
    kind, spec = kind_of(lesson.library), lesson.spec
    facts, network = lesson.library.facts(kind), ClipNet(spec.view, outputs(spec)).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=lesson.steps)
    right = torch.tensor(
        [[q.answers.index(answer(f, q.name)) for q in spec.questions] for f in facts]
    )
    for _ in range(lesson.steps):
        chosen = torch.randint(len(facts), (lesson.batch,))
        shown = torch.stack([view(pixels[kind][i], spec.view) for i in chosen.tolist()])
        shown = shown + SPOIL * torch.rand(len(shown), 1, 1, 1, 1) * torch.randn_like(shown)
        logits = split(network(shown), spec)
        losses = [
            F.cross_entropy(part, right[chosen, i], label_smoothing=0.05)
            for i, part in enumerate(logits)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        rate.step()
    return network.eval()


def train_judges(folder: Path, libraries: Path, workers: int) -> None:
    """Train, examine and save those that are missing."""
    for name, lesson in lessons().items():
        path = folder / f"{name}.safetensors"
        if path.exists():
            continue
        render_missing((lesson.library, lesson.held_out), libraries, workers)
        network = learned(lesson, lesson.library.opened(libraries))
        judge = Judge(network, Facts(lesson.spec))
        judge.accuracies = examined(judge, lesson.held_out, lesson.held_out.opened(libraries))
        judge.save(path)
        for found in judge.accuracies:
            print(f"{name}: {found.question} {found.right} of {found.of}", flush=True)


def examined(judge: Judge, exam: Library, pixels: dict[str, Tensor]) -> tuple[Accuracy, ...]:
    """How often it is right on clips that it has not seen; the ground's colour is not learned."""
    kind, size = kind_of(exam), f"{exam.format.height}x{exam.format.width}"
    facts, clips = exam.facts(kind), list(pixels[kind])
    told, found = judge(clips), []
    for question in judge.spec.questions:
        right = sum(
            seen[question.name] == answer(f, question.name)
            for f, seen in zip(facts, told, strict=True)
        )
        found.append(Accuracy(question.name, size, right, len(facts)))
    right = sum(
        nearest_colour(clip, COLOUR_TABLE) == f.background
        for f, clip in zip(facts, clips, strict=True)
    )
    return (*found, Accuracy("background", size, right, len(facts)))


def known(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """(right, of) of every judge there, for every question, on clips that it has not seen."""
    judges = {path.stem: Judge.load(path) for path in sorted(folder.glob("*.safetensors"))}
    return {
        name: {found.question: (found.right, found.of) for found in judge.accuracies}
        for name, judge in judges.items()
    }


class Eye:
    """A judge that also tells what it sees as a vector."""

    def __init__(self, path: Path, device: torch.device):
        self.judge = Judge.load(path)
        self.judge.network.to(device)
        self.device = device
        self.trunk = copy(self.judge.network)
        self.trunk._modules = {**self.trunk._modules, "head": nn.Identity()}

    def __call__(self, clips: Sequence[Frames]) -> list[dict[str, str]]:
        """Answers, the colour of the ground among them."""
        grounds = [{"background": nearest_colour(clip, COLOUR_TABLE)} for clip in clips]
        return [ground | seen for ground, seen in zip(grounds, self.judge(clips), strict=True)]

    @torch.inference_mode()
    def features(self, clips: Sequence[Frames]) -> Float[Tensor, "n d"]:
        """What the judge makes of each clip before it answers."""
        shown = torch.stack([view(clip, self.judge.spec.view) for clip in clips])
        return torch.cat([self.trunk(part.to(self.device)).cpu() for part in shown.split(64)])
