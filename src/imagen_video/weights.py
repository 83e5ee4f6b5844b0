"""A stage's folder: stage.json and model.safetensors. No pickle, ever."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imagen_video.files import replacing
from imagen_video.index import MODEL, SPEC, load_spec
from imagen_video.spec import StageSpec
from imagen_video.spec_json import to_json
from imagen_video.stage import Stage, build_unet


def working_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16, but float32 on CPUs that only emulate it, where it is several times slower."""
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native or torch.device(device).type != "cpu" else torch.float32


def save_stage(stage: Stage, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write spec and weights; each file is either whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in stage.unet.state_dict().items()
    }
    with replacing(folder / MODEL) as path:
        save_file(state, path)
    with replacing(folder / SPEC) as path:
        path.write_text(to_json(stage.spec))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a saved stage by name, whatever network they are of."""
    if not (folder / MODEL).is_file():
        raise ValueError(f"no {MODEL} in {folder}: the stage was described but never trained")
    try:
        return load_file(folder / MODEL)
    except SafetensorError as error:
        raise ValueError(f"{folder / MODEL} is damaged: {error}") from None


def load_stage(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Stage:
    """A saved stage on a device, in its saved dtype unless another is asked for."""
    spec, state = load_spec(folder), load_weights(folder)
    unet = build_unet(spec, device="meta")
    expected = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if expected != found:
        wrong = sorted(k for k in expected | found if expected.get(k) != found.get(k))
        raise ValueError(f"{folder / MODEL} does not fit {SPEC}: {', '.join(wrong[:3])} differ")
    unet.load_state_dict(state, assign=True)
    unet = unet.to(device=device, dtype=dtype)
    unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Stage(spec, unet.eval().requires_grad_(False))


def without_side(stage: Stage) -> Stage:
    """A stage as it is beside no network: what taught that."""
    if stage.spec.unet.side is None:
        return stage
    spec, own = plain_spec(stage.spec), stage.unet.state_dict()
    unet = build_unet(spec, device="meta").eval().requires_grad_(False)
    unet.load_state_dict({name: own[name] for name in unet.state_dict()}, assign=True)
    return Stage(spec, unet)


def plain_spec(spec: StageSpec) -> StageSpec:
    """The same of a spec."""
    if spec.unet.side is None:
        return spec
    return replace(spec, unet=replace(spec.unet, guided=None, side=None))
