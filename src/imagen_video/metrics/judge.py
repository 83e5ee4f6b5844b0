"""Answers about a generated clip that can be right or wrong: its ground, its motion, its object.

The colour of a flat ground needs no learning. Motion and object are read by small networks that
have seen ground truth alone, and that carry how often they are right on held-out ground truth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imagen_video.files import replacing
from imagen_video.shapes import Float
from imagen_video.spec_json import from_json, to_json
from imagen_video.video import Frames, resize, to_float


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


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """What a classifier of clips answers and what it looks at.

    It sees `frames` frames, evenly spaced, at `height` x `width`. With `over_time` it sees how
    they follow each other; without, each frame votes on its own.
    """

    answers: tuple[str, ...]
    frames: int
    height: int
    width: int
    over_time: bool
    patch: int = 2
    widths: tuple[int, ...] = (32, 64, 96)


@dataclass(frozen=True)
class Accuracy:
    """Right answers on ground truth that training did not see."""

    right: int
    of: int


class ClipClassifier(nn.Module):
    """Folded pixels, residual space-time convolutions at halving sizes, a mean over everything."""

    def __init__(self, spec: JudgeSpec):
        super().__init__()
        self.spec = spec
        channels = spec.widths[0]
        # RGB, where it is (motion is where to when), and how far from the ground's colour it is.
        self.stem = nn.Linear(6 * spec.patch**2, channels)
        layers: list[nn.Module] = []
        for i, width in enumerate(spec.widths):
            if i:
                layers += [Halve(channels, width), Residual(width, spec.over_time)]
            layers.append(Residual(width, spec.over_time))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * channels, len(spec.answers)))

    def forward(self, video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b answers"]:
        """Logits of the answers for clips in [-1, 1] of the spec's size."""
        x = _fold(_with_place(video), self.spec.patch)
        x = self.stem(x).movedim(-1, 1).contiguous(memory_format=torch.channels_last_3d)
        x = self.body(x)
        votes = torch.cat([x.mean((3, 4)), x.amax((3, 4))], 1).movedim(1, 2)
        if self.spec.over_time:
            votes = votes.mean(1, keepdim=True)
        return self.head(votes).float().mean(1)


def _with_place(video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f 6 h w"]:
    """Three more channels: x and y in [-1, 1], and the distance from the frame's corners."""
    b, f, _, h, w = video.shape
    corners = video[..., :: h - 1, :: w - 1]
    ground = corners.flatten(-2).movedim(1, -1).flatten(-2).median(-1).values
    away = (video - ground[:, None, :, None, None]).square().sum(2, keepdim=True).sqrt()
    y = torch.linspace(-1, 1, h).to(video)[:, None].expand(b, f, 1, h, w)
    x = torch.linspace(-1, 1, w).to(video).expand(b, f, 1, h, w)
    return torch.cat([video, away, y, x], 2)


def _fold(video: Float[Tensor, "b f c h w"], patch: int) -> Float[Tensor, "b f y x cells"]:
    b, f, c, h, w = video.shape
    cells = video.view(b, f, c, h // patch, patch, w // patch, patch)
    return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


class Residual(nn.Module):
    """Two convolutions around a skip, the first also over three frames if asked for."""

    def __init__(self, width: int, over_time: bool):
        super().__init__()
        taps = 3 if over_time else 1
        self.first = nn.Conv3d(width, width, (taps, 3, 3), padding=(taps // 2, 1, 1), bias=False)
        self.second = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.before, self.between = nn.BatchNorm3d(width), nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(F.relu(self.before(x)))
        return x + self.second(F.relu(self.between(inner)))


class Halve(nn.Module):
    """Half the height and width, more channels."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv = nn.Conv3d(width_in, width_out, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Judge:
    """A trained classifier and how often it is right on ground truth; say both in one breath."""

    def __init__(self, network: ClipClassifier, accuracy: Accuracy):
        self.network, self.accuracy = network.eval(), accuracy
        self.spec = network.spec

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Frames]) -> list[str]:
        """The likeliest answer for every clip, whatever its size and length."""
        device = next(self.network.parameters()).device
        chosen = []
        for clip in clips:
            logits = self.network(view(clip, self.spec)[None].to(device))
            chosen.append(self.spec.answers[int(logits.argmax())])
        return chosen

    def save(self, path: Path) -> None:
        """One safetensors file with the spec and the accuracy inside."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"spec": to_json(self.spec), "accuracy": to_json(self.accuracy)}
        state = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        with replacing(path) as temporary:
            save_file(state, temporary, metadata=facts)

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """What `save` wrote; ValueError where there is none."""
        if not path.is_file():
            raise ValueError(f"no judge at {path}: train it with runs/judge.py")
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                spec = from_json(JudgeSpec, facts["spec"])
                accuracy = from_json(Accuracy, facts["accuracy"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no judge: {error}") from None
        network = ClipClassifier(spec)
        network.load_state_dict(state)
        return cls(network, accuracy)


def view(clip: Frames, spec: JudgeSpec) -> Float[Tensor, "frames 3 height width"]:
    """The frames that a judge looks at, in its size; ValueError for a clip that has too few."""
    if len(clip) < spec.frames or clip.shape[-2] < spec.height:
        got = "x".join(map(str, (len(clip), *clip.shape[-2:])))
        wants = f"{spec.frames}x{spec.height}x{spec.width}"
        raise ValueError(f"this judge looks at {wants}, the clip is only {got}: use a smaller one")
    chosen = torch.arange(spec.frames) * len(clip) // spec.frames
    return resize(to_float(clip[chosen])[None], spec.height, spec.width)[0]
