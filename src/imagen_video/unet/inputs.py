"""What the network is told besides the noisy video (paper section 3)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imagen_video.shapes import Bool, Float, Int
from imagen_video.video import PerClip


@dataclass(frozen=True)
class Conditioning:
    """Text, kind and low-resolution video of a batch of clips.

    `text` and `text_mask` hold s captions a clip: 1 for a video, one a frame for packed images.
    `is_video` is False for packed images, whose frames must not see each other. `lowres` is the
    noised conditioning video on its own height and width, already at the frame count of the output
    (with more channels in temporal super-resolution: `lowres.prepare`), and `lowres_logsnr`
    the level of its noise. An all-False `text_mask` is the unconditional input. `frame_index`
    numbers the frames shown, when they are not all of them from the first on. `guidance` is the
    weight that a network which has learned guidance is told.
    """

    text: Float[Tensor, "b s n d"]
    text_mask: Bool[Tensor, "b s n"]
    is_video: Bool[Tensor, " b"]
    lowres: Float[Tensor, "b f c h w"] | None = None
    lowres_logsnr: PerClip | None = None
    frame_index: Int[Tensor, " f"] | None = None
    guidance: PerClip | None = None

    def without_text(self) -> "Conditioning":
        """The same clips, unconditional: pooled text and tokens dropped together."""
        return self.drop_text(torch.zeros_like(self.is_video))

    def drop_text(self, keep: Bool[Tensor, " b"]) -> "Conditioning":
        """Drop the captions of the clips that `keep` does not name (guidance dropout)."""
        return replace(self, text_mask=self.text_mask & keep[:, None, None])

    def cat(self, other: "Conditioning") -> "Conditioning":
        """Both batches one after the other, for one doubled call."""

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        return Conditioning(
            torch.cat([self.text, other.text]),
            torch.cat([self.text_mask, other.text_mask]),
            torch.cat([self.is_video, other.is_video]),
            both(self.lowres, other.lowres),
            both(self.lowres_logsnr, other.lowres_logsnr),
            self.frame_index,
            both(self.guidance, other.guidance),
        )

    def known(self, apart: int) -> "Conditioning":
        """What the stage before is told: kind and text, of every `apart`-th frame."""
        frames = slice(None, None, 1 if self.text.shape[1] == 1 else apart)
        return Conditioning(self.text[:, frames], self.text_mask[:, frames], self.is_video)

    def window(self, seen: slice) -> "Conditioning":
        """These frames of the clips."""
        low = None if self.lowres is None else self.lowres[:, seen]
        text = self.text if self.text.shape[1] == 1 else self.text[:, seen]
        mask = self.text_mask if self.text.shape[1] == 1 else self.text_mask[:, seen]
        index = None if self.frame_index is None else self.frame_index[seen]
        return replace(self, text=text, text_mask=mask, lowres=low, frame_index=index)
