"""Train the judges of sticker clips on ground truth alone, and measure them on it.

    python runs/judge.py                        # into out/judge
    python runs/judge.py --only motion
    python runs/judge.py --measure --out src/imagen_video/judge     # those that are shipped

Ready judges are shipped in src/imagen_video/judge; each carries its accuracy. Held out are clips
of the test split: single objects on flat grounds in all styles, for "rotation" solids that turn,
for "word" (with RapidOCR installed) words. Measured are the weights as they are saved, at every
size that they may be used at. The colour of the background, the direction of rotation and words are
told without any learning.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from imagen_video.data.stickers import CORE_CONCEPTS, Crop, Scene, StickerWorld, render
from imagen_video.data.stickers.concepts import COLOURS, STYLES
from imagen_video.data.stickers.motions import MOTIONS, SOLID_MOTIONS
from imagen_video.data.stickers.scene import Attributes, clashes, staged
from imagen_video.evaluation.reference import rotation
from imagen_video.metrics.clipnet import ClipNet, ViewSpec
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
from imagen_video.metrics.matcher import Matcher, MatcherFacts, MatcherSpec
from imagen_video.metrics.measures import percent
from imagen_video.metrics.words import reader
from imagen_video.presets import SHORT_CAPTIONS
from imagen_video.text.encoder import load_encoder
from imagen_video.video import Frames, VideoFormat, to_float

FPS = 3.0
WHOLE = 16
"""A base clip has 16 frames at 3 a second."""
SIZES = ((24, 40), (48, 80), (192, 320))
"""Height and width of the ground truth that the judges are measured on."""
ALIKE = ("3D render", "flat vector art")
"""Styles that share their drawings, told apart by shading alone."""
CANDIDATES = 64
"""R-precision: so many captions, one of which is the clip's own."""

MOVING = ViewSpec(frames=16, height=24, width=40, over_time=True, widths=(32, 48, 64))
STILL = ViewSpec(frames=8, height=24, width=40, over_time=False, widths=(48, 96, 112))
LOOK = (Question("concept", CORE_CONCEPTS), Question("style", tuple(STYLES)))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and for how long. Networks over time learn from whole clips, the others
    from single frames."""

    spec: JudgeSpec | MatcherSpec
    batch: int
    steps: int
    learning_rate: float = 3e-3


def tasks() -> dict[str, Task]:
    encoder = load_encoder(SHORT_CAPTIONS)
    motions = Question("motion", (*MOTIONS, *SOLID_MOTIONS))
    pairs = MatcherSpec(
        view=replace(MOVING, widths=(48, 64, 96)), encoder=encoder.name, text_dim=encoder.dim
    )
    return {
        "motion": Task(spec=JudgeSpec(view=MOVING, questions=(motions,)), batch=32, steps=700),
        "look": Task(spec=JudgeSpec(view=STILL, questions=LOOK), batch=192, steps=600),
        "match": Task(spec=pairs, batch=96, steps=400, learning_rate=2e-3),
    }


@dataclass
class Options:
    """Train the judges and print how often each is right on held-out ground truth."""

    out: Path = Path("out/judge")
    only: tuple[str, ...] = ("motion", "look", "match")
    clips: int = 400
    """Held-out clips to measure on."""
    steps: int | None = None
    """Instead of each judge's own number."""
    measure: bool = False
    """Only measure those that are there."""
    threads: int = 2


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    for name in options.only:
        task, start = tasks()[name], time.monotonic()
        path = options.out / f"{name}.safetensors"
        if not options.measure:
            train(task, options.steps or task.steps, path)
        took = time.monotonic() - start
        judge = (Matcher if isinstance(task.spec, MatcherSpec) else Judge).load(path)
        found = tuple(examined(judge, options.clips))
        measured = {a.question for a in found}
        # What cannot be measured here (words, without RapidOCR) was true of the same weights.
        judge.accuracies = found + tuple(a for a in judge.accuracies if a.question not in measured)
        judge.save(path)
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB, trained for {took:.0f} s")
        for one in judge.accuracies:
            print(f"  {one.question:16} {one.size:8} {percent(one.right, one.of)}")


def train(task: Task, steps: int, path: Path) -> None:
    """Learn, and save what was learned."""
    if isinstance(task.spec, MatcherSpec):
        matcher = Matcher(MatcherFacts(task.spec))
        learn(matcher, task, steps)
        matcher.save(path)
    else:
        network = ClipNet(task.spec.view, outputs(task.spec))
        learn(network, task, steps)
        Judge(network, Facts(task.spec)).save(path)


def held_out(count: int, family: str) -> list[Scene]:
    """The first clips of a family in the test split."""
    world = StickerWorld(1, split="test")
    drawn = (world.clip(i) for i in range(10**9))
    return list(islice((scene for scene in drawn if scene.attributes.family == family), count))


def examined(judge: Judge | Matcher, count: int) -> Iterator[Accuracy]:
    """How often a judge is right on clips that it has not seen, at every size."""
    flat, solid = held_out(count, "flat"), held_out(count // 2, "solid")
    for height, width in SIZES:
        format, size = VideoFormat(WHOLE, height, width, FPS), f"{height}x{width}"
        if isinstance(judge, Matcher):
            yield Accuracy("match", size, *retrieved(judge, flat, format))
            continue
        names = [question.name for question in judge.spec.questions]
        told = [(scene.attributes, judge([render(scene, format)])[0]) for scene in flat]
        for name in names:
            yield share(name, size, told)
        if "style" in told[0][1]:
            alike = [pair for pair in told if pair[0].style in ALIKE]
            yield replace(share("style", size, alike), question="3D against flat")
            merged = sum(asked.style == seen["style"] or both(asked, seen) for asked, seen in told)
            yield Accuracy("style, 3D as flat", size, merged, len(told))
        if "motion" in told[0][1]:
            ground = [nearest_colour(render(scene, format), COLOURS) for scene in flat]
            right = sum(g == s.attributes.background for g, s in zip(ground, flat, strict=True))
            yield Accuracy("background", size, right, len(flat))
            right = sum(
                rotation(render(scene, format), asdict(scene.attributes)) == scene.attributes.motion
                for scene in solid
            )
            yield Accuracy("rotation", size, right, len(solid))
            yield from words_read(count // 2, format)


def words_read(count: int, format: VideoFormat) -> Iterator[Accuracy]:
    """How often RapidOCR reads the word of a clip's last frame; nothing where it is missing."""
    read, right = reader(), 0
    if read is None:
        return
    last = Crop(format.frames - 1, 0, 0, 1, format.height, format.width)
    scenes = held_out(count, "text")
    for scene in scenes:
        right += read(render(scene, format, crop=last)) == scene.attributes.word
    yield Accuracy("word", f"{format.height}x{format.width}", right, len(scenes))


def both(asked: Attributes, seen: dict[str, str]) -> bool:
    return asked.style in ALIKE and seen["style"] in ALIKE


def share(question: str, size: str, told: list[tuple[Attributes, dict[str, str]]]) -> Accuracy:
    right = sum(getattr(asked, question) == seen[question] for asked, seen in told)
    return Accuracy(question, size, right, len(told))


def retrieved(matcher: Matcher, scenes: list[Scene], format: VideoFormat) -> tuple[int, int]:
    """How often a clip is nearest to its own caption among CANDIDATES, and of how many clips."""
    encoder = load_encoder(SHORT_CAPTIONS)
    right = of = 0
    for start in range(0, len(scenes) - CANDIDATES + 1, CANDIDATES):
        group = scenes[start : start + CANDIDATES]
        captions = matcher.captions(encoder([scene.caption for scene in group]))
        clips = torch.cat([matcher.clips([render(scene, format)]) for scene in group])
        right += int(((clips @ captions.T).argmax(1) == torch.arange(len(group))).sum())
        of += len(group)
    return right, of


class Lessons(Dataset):
    """Batch k: 8-bit clips and their scenes, a pure function of k."""

    def __init__(self, task: Task, steps: int):
        self.task, self.steps = task, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Frames, list[Scene]]:
        task, clips, scenes = self.task, [], []
        look = task.spec.view
        format = VideoFormat(WHOLE, look.height, look.width, FPS)
        for i in range(step * task.batch, (step + 1) * task.batch):
            rng = np.random.default_rng((i, 7))
            scene = staged(draw(i, rng, task), np.random.Generator(np.random.Philox(key=[i, 9])))
            frame = 0 if look.over_time else int(rng.integers(WHOLE))
            frames = WHOLE if look.over_time else 1
            crop = Crop(frame, 0, 0, frames, look.height, look.width)
            clips.append(render(scene, format, crop=crop))
            scenes.append(scene)
        return torch.stack(clips), scenes


def draw(index: int, rng: np.random.Generator, task: Task) -> Attributes:
    """Facts of a scene in which everything can be seen; concepts and motions take turns."""
    motions = MOTIONS if isinstance(task.spec, MatcherSpec) else (*MOTIONS, *SOLID_MOTIONS)
    concept = CORE_CONCEPTS[index % len(CORE_CONCEPTS)]
    motion = motions[rng.integers(len(motions))]
    style = list(STYLES)[rng.integers(len(STYLES))]
    grounds = [colour for colour in COLOURS if colour not in clashes()[concept][style]]
    return Attributes(
        family="solid" if motion in SOLID_MOTIONS else "flat",
        background=grounds[rng.integers(len(grounds))],
        style=style,
        motion=motion,
        concept=concept,
    )


def learn(network: nn.Module, task: Task, steps: int) -> None:
    """Learn from endless ground truth, slightly spoiled so that small blemishes are forgiven."""
    torch.manual_seed(0)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, task.learning_rate, total_steps=steps, pct_start=0.2
    )
    encoder = load_encoder(SHORT_CAPTIONS)
    lessons = DataLoader(Lessons(task, steps), batch_size=None, num_workers=1, prefetch_factor=4)
    bar = tqdm(lessons, desc=type(network).__name__, mininterval=5)
    for clips, scenes in bar:
        video = spoil(to_float(clips))
        with torch.autocast("cpu", torch.bfloat16):
            if isinstance(network, Matcher):
                loss = network.loss(video, encoder([scene.caption for scene in scenes]))
            else:
                loss = answering(network(video), task.spec, scenes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def answering(logits: Tensor, spec: JudgeSpec, scenes: list[Scene]) -> Tensor:
    """Cross-entropy of the right answers, added up over the questions."""
    losses = []
    for question, part in zip(spec.questions, split(logits, spec), strict=True):
        facts = [getattr(scene.attributes, question.name) for scene in scenes]
        right = torch.tensor([question.answers.index(fact) for fact in facts])
        losses.append(F.cross_entropy(part, right, label_smoothing=0.05))
    return torch.stack(losses).sum()


def spoil(video: Tensor) -> Tensor:
    """A little blur, noise, and change of brightness and contrast, different for every clip."""
    clips, _, _, height, _ = video.shape

    def amount(most: float) -> Tensor:
        return most * torch.rand(clips, 1, 1, 1, 1)

    kernel = 3 if height < 48 else 5
    blurred = F.avg_pool2d(
        video.flatten(0, 1), kernel, 1, kernel // 2, count_include_pad=False
    ).view_as(video)
    video = torch.lerp(video, blurred, amount(0.8))
    video = video * (1 + amount(0.2) - 0.1) + amount(0.1) - 0.05
    return video + amount(0.08) * torch.randn_like(video)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
