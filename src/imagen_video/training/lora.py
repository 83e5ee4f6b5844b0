"""Low-rank adapters: fine-tuning of a stage that leaves its weights as they are (peft)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imagen_video.files import replacing
from imagen_video.index import MODEL
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage
from imagen_video.unet.unet import VideoUNet
from imagen_video.weights import load_stage, without_side

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "adapter"


@dataclass(frozen=True)
class Lora:
    """Adapters of this rank over the weights of a saved stage, all of which stay frozen.

    `sha256` is of those weights: adapters say nothing over others.
    """

    rank: int
    base: Path
    sha256: str

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"the rank of adapters must be at least 1, got {self.rank}")

    @classmethod
    def over(cls, base: Path, rank: int) -> "Lora":
        """New adapters over the weights that lie in a stage's folder now."""
        return cls(rank, base, digest(base))

    def load_base(self, spec: StageSpec) -> Stage:
        """The stage below the adapters, in float32; ValueError if its network or its weights are
        not those they are for."""
        if digest(self.base) != self.sha256:
            raise ValueError(
                f"{self.base / MODEL} has changed since adapters were trained over it: bring back "
                f"the one with SHA-256 {self.sha256}"
            )
        stage = without_side(load_stage(self.base, dtype=torch.float32))
        if stage.spec.unet != spec.unet or stage.spec.low_channels != spec.low_channels:
            raise ValueError(f"{self.base} has another network than stage {spec.name!r}")
        return Stage(spec, stage.unet)

    def adapt(self, unet: VideoUNet) -> nn.Module:
        """Put fresh adapters, which change nothing yet, on every convolution and projection of the
        blocks, in place; only they can be trained. Returns peft's wrapper.

        ValueError without peft.
        """
        try:
            from peft import get_peft_model
        except ImportError as error:
            raise ValueError('adapters need peft: pip install "imagen-video[lora]"') from error
        return get_peft_model(unet, self._config(unet))  # pyright: ignore[reportArgumentType]

    def _config(self, unet: VideoUNet) -> "LoraConfig":
        from peft import LoraConfig

        names = [
            name
            for name, part in unet.named_modules()
            if isinstance(part, nn.Linear | nn.Conv2d) and name.startswith(("down.", "up."))
        ]
        return LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=names)

    def save(self, weights: Mapping[str, Tensor], unet: VideoUNet, folder: Path) -> None:
        """Write adapters, by the names of their parameters, as peft's own folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "base_model.model." + name.replace(".default.", "."): value.detach().cpu().contiguous()
            for name, value in weights.items()
        }
        with replacing(folder / "adapter_model.safetensors") as path:
            save_file(state, path)
        config: LoraConfig = unet.peft_config["default"]  # pyright: ignore
        config.base_model_name_or_path = str(self.base.resolve())
        config.save_pretrained(str(folder))

    def facts(self) -> dict:
        """What a checkpoint says of them; the base by its content, wherever it lies."""
        return {"rank": self.rank, "base": str(self.base.resolve()), "sha256": self.sha256}


def digest(base: Path) -> str:
    """The SHA-256 of a stage's weights; ValueError where there are none."""
    if not (base / MODEL).is_file():
        raise ValueError(f"no {MODEL} in {base}: give the folder of a trained stage")
    with open(base / MODEL, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_of(told: dict | None) -> str:
    """What is trained, by the facts of a checkpoint: adapters over weights of some content."""
    if told is None:
        return "whole weights"
    return f"adapters of rank {told['rank']} over weights {told['sha256'][:12]}"


def lora_of(facts: dict) -> Lora | None:
    """The adapters that a checkpoint is of, if it is."""
    told = facts.get("lora")
    return told and Lora(told["rank"], Path(told["base"]), told["sha256"])


def merged(wrapper: nn.Module) -> VideoUNet:
    """The network with its adapters added into its weights."""
    return wrapper.merge_and_unload()  # pyright: ignore[reportCallIssue]
