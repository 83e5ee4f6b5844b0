"""A video-text dual encoder on the frozen text encoder: how well a clip fits a sentence.

It stands in for CLIP in R-precision where CLIP's weights cannot be had, and only for the world
that it was trained on: a clip and its own caption are close, other captions of the batch far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagen_video.metrics.clipnet import ClipNet, ViewSpec, view
from imagen_video.metrics.judge import Accuracy, read_network, save_network
from imagen_video.shapes import Float
from imagen_video.text.encoder import TextEmbedding
from imagen_video.video import Frames


@dataclass(frozen=True, kw_only=True)
class MatcherSpec:
    """What it looks at, and the embeddings of captions that it reads: `text_dim` features a token
    of the encoder with this name."""

    view: ViewSpec
    encoder: str
    text_dim: int
    dim: int = 128
    width: int = 128
    layers: int = 2


@dataclass(frozen=True)
class MatcherFacts:
    """What lies beside a matcher's weights."""

    spec: MatcherSpec
    accuracies: tuple[Accuracy, ...] = ()


class TextTower(nn.Module):
    """Frozen token embeddings through a small transformer, a mean, and a projection."""

    def __init__(self, spec: MatcherSpec):
        super().__init__()
        # Tokens of "left to right" and "right to left" are nearly one vector: each feature is put
        # on its own mean and spread, so that what differs between captions counts.
        self.level = nn.BatchNorm1d(spec.text_dim)
        self.into = nn.Linear(spec.text_dim, spec.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                spec.width, 4, 2 * spec.width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(spec.layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(spec.width), nn.Linear(spec.width, spec.dim))

    def forward(self, text: TextEmbedding) -> Float[Tensor, "b e"]:
        mask = text.mask[..., None]
        level = torch.zeros_like(text.tokens)
        level[text.mask] = self.level(text.tokens[text.mask])
        x = self.into(level)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~text.mask)
        return self.out((x * mask).sum(1) / mask.sum(1))


class Matcher(nn.Module):
    """Clips and captions as unit vectors of one space."""

    def __init__(self, facts: MatcherFacts):
        super().__init__()
        self.spec, self.accuracies = facts.spec, facts.accuracies
        self.video = ClipNet(facts.spec.view, facts.spec.dim)
        self.text = TextTower(facts.spec)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def loss(self, video: Float[Tensor, "b f 3 h w"], text: TextEmbedding) -> Float[Tensor, ""]:
        """Every clip finds its caption among the batch's, every caption its clip."""
        clips, captions = F.normalize(self.video(video), dim=1), F.normalize(self.text(text), dim=1)
        logits = clips.float() @ captions.float().T * self.scale.exp()
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    @torch.inference_mode()
    def clips(self, clips: Sequence[Frames]) -> Float[Tensor, "b e"]:
        """Unit vectors of clips of any size and length."""
        device = self.scale.device
        rows = [self.video(view(clip, self.spec.view)[None].to(device)) for clip in clips]
        return F.normalize(torch.cat(rows), dim=1)

    @torch.inference_mode()
    def captions(self, text: TextEmbedding) -> Float[Tensor, "b e"]:
        """Unit vectors of captions."""
        return F.normalize(self.text(text.to(self.scale.device, torch.float32)), dim=1)

    def save(self, path: Path) -> None:
        """One safetensors file, in bfloat16, with the spec and the accuracies inside."""
        save_network(path, self, MatcherFacts(self.spec, self.accuracies))

    @classmethod
    def load(cls, path: Path) -> "Matcher":
        """What `save` wrote; ValueError where there is none."""
        state, facts = read_network(path, MatcherFacts)
        matcher = cls(facts).eval()
        matcher.load_state_dict(state)
        return matcher
