"""Train the judges of generated sticker clips on ground truth alone, and measure them on it.

    python runs/judge.py                        # about 10 minutes on two cores, into out/judge
    python runs/judge.py --only motion          # about 3 minutes

Expected on 400 held-out clips (test split, all styles, single objects on flat grounds), in %:
    background 100, motion 16x24x40 100, concept 24x40 98, concept 96x160 96
Weights stay in the ignored folder out/: the numbers of a judge belong to its file.
"""

import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from imagen_video.data.stickers import CORE_CONCEPTS, Crop, Scene, StickerWorld, render, scene_for
from imagen_video.data.stickers.concepts import COLOURS, STYLES
from imagen_video.data.stickers.motions import MOTIONS
from imagen_video.data.stickers.scene import clashes
from imagen_video.metrics.judge import Accuracy, ClipClassifier, Judge, JudgeSpec, nearest_colour
from imagen_video.metrics.measures import percent
from imagen_video.video import VideoFormat, to_float

FPS = 3.0
WHOLE = 16
"""A base clip has 16 frames at 3 a second."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A judge to be trained: which fact it tells, and for how long it learns.

    Judges over time learn from whole clips, the others from single frames.
    """

    fact: str
    spec: JudgeSpec
    batch: int
    steps: int
    learning_rate: float = 3e-3

    @property
    def format(self) -> VideoFormat:
        return VideoFormat(WHOLE, self.spec.height, self.spec.width, FPS)


TASKS = {
    "motion": Task(
        fact="motion",
        spec=JudgeSpec(
            answers=MOTIONS, frames=16, height=24, width=40, over_time=True, widths=(32, 48, 64)
        ),
        batch=32,
        steps=450,
    ),
    "concept-24x40": Task(
        fact="concept",
        spec=JudgeSpec(
            answers=CORE_CONCEPTS,
            frames=8,
            height=24,
            width=40,
            over_time=False,
            widths=(48, 96, 112),
        ),
        batch=192,
        steps=450,
    ),
    "concept-96x160": Task(
        fact="concept",
        spec=JudgeSpec(
            answers=CORE_CONCEPTS,
            frames=8,
            height=96,
            width=160,
            over_time=False,
            patch=4,
            widths=(32, 48, 80, 112),
        ),
        batch=96,
        steps=450,
    ),
}


@dataclass
class Options:
    """Train the judges and print how often each is right on held-out ground truth."""

    out: Path = Path("out/judge")
    only: tuple[str, ...] = tuple(TASKS)
    clips: int = 400
    """Held-out clips to measure on."""
    steps: int | None = None
    """Instead of each judge's own number."""
    threads: int = 2


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    scenes = held_out(options.clips)
    right = sum(
        nearest_colour(render(scene, TASKS["motion"].format), COLOURS)
        == scene.attributes.background
        for scene in scenes
    )
    print("right on held-out ground truth, in %")
    print(f"background: {percent(right, len(scenes))}, nothing learned")
    for name in options.only:
        task, start = TASKS[name], time.monotonic()
        network = train(task, options.steps or task.steps)
        took = time.monotonic() - start
        judge = Judge(network, Accuracy(0, 1))
        judge.accuracy = examine(judge, task.fact, scenes)
        judge.save(options.out / f"{name}.safetensors")
        size = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"{name}: {percent(**asdict(judge.accuracy))}, {size:.2f}M parameters, {took:.0f} s")


def held_out(count: int) -> list[Scene]:
    """The first single objects on flat grounds of the test split."""
    world = StickerWorld(1, split="test")
    drawn = (world.clip(i) for i in range(10**9))
    return list(islice((scene for scene in drawn if scene.attributes.family == "flat"), count))


def examine(judge: Judge, fact: str, scenes: list[Scene]) -> Accuracy:
    """How often a judge tells the fact of a clip that it has not seen."""
    format = VideoFormat(WHOLE, judge.spec.height, judge.spec.width, FPS)
    right = 0
    for scene in scenes:
        right += judge([render(scene, format)]) == [getattr(scene.attributes, fact)]
    return Accuracy(right, len(scenes))


class Lessons(Dataset):
    """Batch k: 8-bit clips and the indices of their right answers, a pure function of k."""

    def __init__(self, task: Task, steps: int):
        self.task, self.steps = task, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        task, clips, answers = self.task, [], []
        for i in range(step * task.batch, (step + 1) * task.batch):
            rng = np.random.default_rng((i, 7))
            facts = draw(i, task.spec, rng)
            scene = scene_for(**facts, seed=10**9 + i)
            frame = 0 if task.spec.over_time else int(rng.integers(WHOLE))
            frames = WHOLE if task.spec.over_time else 1
            crop = Crop(frame, 0, 0, frames, task.spec.height, task.spec.width)
            clips.append(render(scene, task.format, crop=crop))
            answers.append(task.spec.answers.index(facts[task.fact]))
        return torch.stack(clips), torch.tensor(answers)


def draw(index: int, spec: JudgeSpec, rng: np.random.Generator) -> dict[str, str]:
    """Facts of a scene in which everything can be seen; answers take turns."""
    turn = spec.answers[index % len(spec.answers)]
    concept = turn if turn in CORE_CONCEPTS else CORE_CONCEPTS[rng.integers(len(CORE_CONCEPTS))]
    motion = turn if turn in MOTIONS else MOTIONS[rng.integers(len(MOTIONS))]
    style = list(STYLES)[rng.integers(len(STYLES))]
    grounds = [colour for colour in COLOURS if colour not in clashes()[concept][style]]
    ground = grounds[rng.integers(len(grounds))]
    return {"concept": concept, "motion": motion, "style": style, "background": ground}


def train(task: Task, steps: int) -> ClipClassifier:
    """Learn from endless ground truth, slightly spoiled so that small blemishes are forgiven."""
    torch.manual_seed(0)
    network = ClipClassifier(task.spec).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, task.learning_rate, total_steps=steps, pct_start=0.2
    )
    lessons = DataLoader(Lessons(task, steps), batch_size=None, num_workers=1, prefetch_factor=4)
    bar = tqdm(lessons, desc=task.fact, mininterval=5)
    for clips, answers in bar:
        video = spoil(to_float(clips))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(video)
        loss = F.cross_entropy(logits, answers, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        share = (logits.argmax(1) == answers).float().mean().item()
        bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{share:.2f}", refresh=False)
    return network


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
