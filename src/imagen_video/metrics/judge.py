"""Answers about a clip that can be right or wrong: its ground, its motion, its object and style.

The colour of a flat ground needs no learning. The rest is read by small networks that have seen
ground truth alone, and that carry how often they are right on held-out ground truth of each size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imagen_video.files import replacing
from imagen_video.metrics.clipnet import ClipNet, ViewSpec, view
from imagen_video.shapes import Float
from imagen_video.spec_json import from_json, to_json
from imagen_video.video import Frames

AnyFacts = TypeVar("AnyFacts")


def ground_colour(video: Frames) -> Float[Tensor, " 3"]:
    """The median colour of the outermost pixels of all frames, in [0, 255]."""
    ring = max(1, video.shape[-2] // 24)
    sides = (
        video[..., :ring, :],
        video[..., -ring:, :],
        video[..., ring:-ring, :ring],
        video[..., ring:-ring, -ring:],
    )
    pixels = torch.cat([side.movedim(1, 0).flatten(1) for side in sides], 1)
    return pixels.median(1).values.float()


def nearest_colour(video: Frames, colours: Mapping[str, tuple[int, int, int]]) -> str:
    """The name of the colour that the clip's ground is nearest to."""
    names = list(colours)
    table = torch.tensor([colours[name] for name in names]).float()
    return names[int((table - ground_colour(video)).square().sum(1).argmin())]


@dataclass(frozen=True)
class Question:
    """What is asked about a clip, and the answers to choose from."""

    name: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """Right answers on held-out ground truth of a size, such as "192x320"."""

    question: str
    size: str
    right: int
    of: int


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """What a judge looks at and what it is asked."""

    view: ViewSpec
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Facts:
    """What lies beside a judge's weights."""

    spec: JudgeSpec
    accuracies: tuple[Accuracy, ...] = ()


class Judge:
    """A trained classifier and how often it is right on ground truth; say both in one breath."""

    def __init__(self, network: ClipNet, facts: Facts):
        self.network, self.spec, self.accuracies = network.eval(), facts.spec, facts.accuracies

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Frames]) -> list[dict[str, str]]:
        """The likeliest answer to every question for every clip, whatever its size and length."""
        device = next(self.network.parameters()).device
        found = []
        for clip in clips:
            logits = self.network(view(clip, self.spec.view)[None].to(device))
            parts = split(logits, self.spec)
            found.append(
                {
                    question.name: question.answers[int(part.argmax())]
                    for question, part in zip(self.spec.questions, parts, strict=True)
                }
            )
        return found

    def save(self, path: Path) -> None:
        """One safetensors file, in bfloat16, with the spec and the accuracies inside."""
        save_network(path, self.network, Facts(self.spec, self.accuracies))

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """What `save` wrote; ValueError where there is none."""
        state, facts = read_network(path, Facts)
        network = ClipNet(facts.spec.view, outputs(facts.spec))
        network.load_state_dict(state)
        return cls(network, facts)


def outputs(spec: JudgeSpec) -> int:
    """How many logits the questions need together."""
    return sum(len(question.answers) for question in spec.questions)


def split(
    logits: Float[Tensor, "b outputs"], spec: JudgeSpec
) -> tuple[Float[Tensor, "b _answers"], ...]:
    """The logits of each question."""
    return logits.split([len(question.answers) for question in spec.questions], 1)


def save_network(path: Path, network: nn.Module, facts: Any) -> None:
    """Weights in bfloat16 and what is known of them, in one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.bfloat16() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"facts": to_json(facts)})


def read_network(path: Path, kind: type[AnyFacts]) -> tuple[dict[str, Tensor], AnyFacts]:
    """What `save_network` wrote, in float32; ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"no judge at {path}: train it with runs/judge.py")
    try:
        with safe_open(path, framework="pt") as file:
            facts = from_json(kind, (file.metadata() or {})["facts"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is no judge: {error}") from None
    return {n: v.float() if v.is_floating_point() else v for n, v in state.items()}, facts
