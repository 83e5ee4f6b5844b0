"""Checkpoints of `transformers`, and frames as each was trained on them."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from imagen_video.shapes import Float
from imagen_video.video import Frames, resize, to_float

PIL_BILINEAR = 2


def pretrained(kind: Any, name: str) -> Any:
    """A `transformers` model by folder or hub name; ValueError if it cannot be had."""
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"cannot load {kind.__name__} from {name!r}: give a folder that save_pretrained wrote, "
            f"or a hub name and a network ({str(error).splitlines()[0]})"
        ) from None


class Preprocessing(NamedTuple):
    """How a checkpoint wants its frames: covered and cropped in the middle, or squashed."""

    mean: list[float]
    std: list[float]
    mode: Literal["bilinear", "bicubic"]
    cropped: bool

    def told(self, size: int) -> str:
        """What travels with the numbers."""
        how = "covered, centre crop" if self.cropped else "squashed"
        return f"antialiased {self.mode} to {size}x{size}, {how}; less {self.mean}, over {self.std}"


def preprocessing(name: str) -> Preprocessing:
    """What a checkpoint's image processor says; bicubic and cropped where it says nothing of these,
    as CLIP. ValueError where there is none, or it has no mean and spread."""
    from transformers.utils.hub import cached_file

    found = {}
    for file in ("processor_config.json", "preprocessor_config.json"):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if path:  # newer versions put all that a processor consists of into one file
            whole = json.loads(Path(path).read_text())
            found |= whole.get("image_processor", whole)
    if not {"image_mean", "image_std"} <= set(found):
        raise ValueError(
            f"{name} says no image_mean and image_std: put its preprocessor_config.json beside the "
            "weights, as its image processor saves it"
        )
    size = found.get("size")
    square = isinstance(size, dict) and "height" in size  # SigLIP's; CLIP names the shortest edge
    return Preprocessing(
        mean=list(found["image_mean"]),
        std=list(found["image_std"]),
        mode="bilinear" if found.get("resample") == PIL_BILINEAR else "bicubic",
        cropped=bool(found.get("do_center_crop", not square)),
    )


def as_trained(video: Frames, size: int, wanted: "Preprocessing") -> Float[Tensor, "f 3 s s"]:
    """Frames as a checkpoint was trained on them: covering its square and cropped in the middle, or
    squashed, then normalised."""
    height, width = video.shape[-2:] if wanted.cropped else (1, 1)
    scale = size / min(height, width)
    height, width = (max(size, round(side * scale)) for side in (height, width))
    top, left = (height - size) // 2, (width - size) // 2
    shown = resize(to_float(video)[None], height, width, mode=wanted.mode)[0].clamp(-1, 1)
    square = shown[..., top : top + size, left : left + size]
    return normalised(square, wanted.mean, wanted.std)


def normalised(video: Float[Tensor, "f 3 h w"], mean, std) -> Float[Tensor, "f 3 h w"]:
    """From [-1, 1] to the mean and spread that a network was trained on."""
    mean, std = (video.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return ((video + 1) / 2 - mean) / std
