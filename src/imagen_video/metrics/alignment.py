"""How well videos fit their prompts: CLIP score by frame and R-precision (paper section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video.metrics.checkpoints import as_trained, preprocessing, pretrained
from imagen_video.metrics.features import BATCH, Facts, digest_of, in_batches
from imagen_video.metrics.judge import Accuracy
from imagen_video.metrics.matcher import Matcher
from imagen_video.shapes import Float
from imagen_video.text.encoder import TextEncoder
from imagen_video.video import Frames


@runtime_checkable
class Aligner(Protocol):
    """Videos and prompts as unit vectors of one space: one vector a frame, or one for a clip."""

    @property
    def facts(self) -> Facts: ...

    @property
    def accuracies(self) -> Sequence[Accuracy]:
        """How often it is right on ground truth, where that is known."""
        ...

    def fits(self, frames: int, height: int) -> bool:
        """Whether a video of this size is long and large enough to be looked at."""
        ...

    def video(self, video: Frames) -> Float[Tensor, "n e"]: ...

    def prompts(self, prompts: Sequence[str]) -> Float[Tensor, "p e"]: ...


def score(video: Float[Tensor, "n e"], prompt: Float[Tensor, " e"]) -> float:
    """CLIP score from 0 to 100: each frame's cosine with the prompt, none below 0, averaged."""
    return 100 * (video @ prompt).clamp(min=0).mean().item()


def retrieved(video: Float[Tensor, "n e"], prompts: Float[Tensor, "p e"], own: int) -> float:
    """The share of a video's frames that fit its own prompt best of all, which R-precision is the
    mean of (paper section 3.3: frames share the prompt of their video); of one vector, 0 or 1."""
    return ((video @ prompts.T).argmax(1) == own).double().mean().item()


@dataclass(frozen=True)
class MatcherAligner:
    """The sticker world's dual encoder: a proxy for CLIP, one vector a clip."""

    matcher: Matcher
    encoder: TextEncoder
    facts: Facts

    @classmethod
    def of(cls, matcher: Matcher, encoder: TextEncoder) -> "MatcherAligner":
        """ValueError for an encoder whose embeddings the matcher does not know."""
        if encoder.name != matcher.spec.encoder:
            raise ValueError(
                f"the matcher reads embeddings of {matcher.spec.encoder}, not of {encoder.name}"
            )
        look = matcher.spec.view
        facts = Facts(
            name="sticker matcher (proxy)",
            weights=digest_of(matcher),
            resize=f"antialiased bilinear to {look.frames}x{look.height}x{look.width}",
            proxy=True,
        )
        return cls(matcher, encoder, facts)

    @property
    def accuracies(self) -> Sequence[Accuracy]:
        return self.matcher.accuracies

    def fits(self, frames: int, height: int) -> bool:
        look = self.matcher.spec.view
        return frames >= look.frames and height >= look.height

    def video(self, video: Frames) -> Float[Tensor, "1 e"]:
        return self.matcher.clips([video]).cpu()

    def prompts(self, prompts: Sequence[str]) -> Float[Tensor, "p e"]:
        return self.matcher.captions(self.encoder(prompts)).cpu()


class ClipAligner:
    """Any CLIP or SigLIP of `transformers`, by folder or hub name: one vector a frame.

    Frames are resized antialiased as its image processor says: to cover its square and cropped in
    the middle (CLIP), or squashed (SigLIP).
    """

    accuracies: Sequence[Accuracy] = ()

    def __init__(self, name: str, device: str = "cpu"):
        from transformers.models.auto.modeling_auto import AutoModel
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        self.network = pretrained(AutoModel, name).eval().to(device)
        if not hasattr(self.network, "get_image_features"):
            raise ValueError(f"{name!r} holds no CLIP or SigLIP: {type(self.network).__name__}")
        self.tokenizer = pretrained(AutoTokenizer, name)
        self.wanted = preprocessing(name)
        vision = self.network.config.vision_config
        if not hasattr(vision, "image_size"):
            raise ValueError(
                f"{name!r} takes images of any size (NaFlex): give one of a fixed size"
            )
        self.size: int = vision.image_size
        self.length = self.network.config.text_config.max_position_embeddings
        self.facts = Facts(
            name=name,
            weights=digest_of(self.network),
            resize=self.wanted.told(self.size),
            proxy=False,
        )

    def fits(self, frames: int, height: int) -> bool:
        return True

    @torch.inference_mode()
    def video(self, video: Frames) -> Float[Tensor, "n e"]:
        shown = as_trained(video, self.size, self.wanted)
        shown = shown.to(next(self.network.parameters()).device)
        found = in_batches(
            lambda part: _vectors(self.network.get_image_features(pixel_values=part)), shown
        )
        return F.normalize(found.float(), dim=1).cpu()

    @torch.inference_mode()
    def prompts(self, prompts: Sequence[str]) -> Float[Tensor, "p e"]:
        parts = [self._told(prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH)]
        return F.normalize(torch.cat(parts).float(), dim=1).cpu()

    def _told(self, prompts: Sequence[str]) -> Tensor:
        # SigLIP was trained with padding to full length, and CLIP does not mind.
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        ).to(next(self.network.parameters()).device)
        return _vectors(self.network.get_text_features(**tokens))


def _vectors(found) -> Tensor:
    """The pooled embedding, which newer versions hand over in an object."""
    return found if isinstance(found, Tensor) else found.pooler_output
