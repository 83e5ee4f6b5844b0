"""The cascade as a table, like the paper's Figure 6: frames x height x width @ frames a second.

`paper()` is the published cascade, `mini()` the same formats for two CPU cores, `tiny()` the
product in miniature for tests and documentation.
"""

import runpy
from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeGuard

from imagen_video.index import located, read_index
from imagen_video.spec import (
    CascadeSpec,
    GuidanceSpec,
    SamplerSpec,
    StageSpec,
    TextSpec,
    TrainSpec,
)
from imagen_video.spec_unet import UNetSpec
from imagen_video.video import VideoFormat

NAMES = ("base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3", "ssr3")
FORMATS = tuple(
    VideoFormat.parse(text)
    for text in (
        "16x24x40@3",
        "32x24x40@6",
        "32x48x80@6",
        "32x192x320@6",
        "64x192x320@12",
        "128x192x320@24",
        "128x768x1280@24",
    )
)
# The sticker world's captions have some twenty tokens.
SHORT_CAPTIONS = TextSpec(length=32)
OSCILLATING = GuidanceSpec(weight=15.0, low=1.0, constant_steps=26)


def _cascade(
    name: str, text: TextSpec, formats: tuple[VideoFormat, ...], rows: list[StageSpec]
) -> CascadeSpec:
    """Rows describe what differs; names, formats and text width are filled in here."""
    inputs = (None, *formats[:-1])
    stages = tuple(
        replace(row, name=n, input=low, output=high, unet=replace(row.unet, text_dim=text.dim))
        for row, n, low, high in zip(rows, NAMES, inputs, formats, strict=True)
    )
    return CascadeSpec(name=name, stages=stages, text=text)


def _row(unet: UNetSpec, sampler: SamplerSpec, train: TrainSpec, **options) -> StageSpec:
    """A stage whose place in the cascade `_cascade` fills in."""
    height, width = train.crop or (unet.multiple, unet.multiple)
    return StageSpec(
        name="",
        output=VideoFormat(train.frames or 1, height, width, 1.0),
        unet=unet,
        sampler=sampler,
        train=train,
        **options,
    )


def paper() -> CascadeSpec:
    """The published cascade: parameter counts within 3 % of 5.6B, 1.7B, 1.4B, 1.2B, 780M, 630M
    and 340M. Widths and depths are ours, as the paper does not give them; so are
    the decisions in ARCHITECTURE.md."""
    steps, train = 128, TrainSpec(steps=1_000_000, clips=64, image_packs=64, warmup=10_000)

    def sr(widths, blocks, aug, guidance=None, **options) -> StageSpec:
        unet = UNetSpec(
            widths=widths,
            blocks=blocks,
            temporal="conv",
            temporal_levels=tuple(range(len(widths))),
            embed_dim=1024,
            **{k: options.pop(k) for k in list(options) if k in UNetSpec.__dataclass_fields__},
        )
        sampler = SamplerSpec(
            num_steps=steps,
            move="ancestral",
            gamma=0.1,
            guidance=guidance or GuidanceSpec(weight=4.0),
            threshold="dynamic",
            aug_logsnr=aug,
        )
        return _row(unet, sampler, options.pop("train", train), **options)

    base_unet = UNetSpec(
        widths=(1024, 2048, 3072),
        blocks=(4, 6, 13),
        temporal="attention",
        temporal_levels=(0, 1, 2),
        attention_levels=(0, 1, 2),
        embed_dim=1024,
    )
    base = SamplerSpec(
        num_steps=256, move="ancestral", gamma=0.3, guidance=OSCILLATING, threshold="dynamic"
    )
    low, high = 1.099, 1.609  # SNR 3 and 5
    short = replace(OSCILLATING, constant_steps=13)
    crop = replace(train, crop=(256, 256))
    window = replace(train, frames=64)  # of all 128 the activations fit on no GPU of 80 GiB
    rows = [
        _row(base_unet, base, train),
        sr((640, 1280, 1920), (3, 5, 9), low, short, attention_levels=(0, 1, 2)),
        sr((512, 1024, 1536), (3, 6, 12), low, short, attention_levels=(1, 2)),
        sr((256, 512, 1024, 1536), (2, 4, 6, 11), high, attention_levels=(3,)),
        sr((256, 512, 1024, 1280), (2, 4, 6, 8), high, cross_levels=(3,)),
        sr((256, 512, 768, 1280), (2, 4, 6, 7), high, cross_levels=(3,), train=window),
        sr((128, 256, 512, 1024), (2, 4, 6, 9), high, norm="layer", train=crop),
    ]
    text = TextSpec(encoder="t5", name="google/t5-v1_1-xxl", dim=4096, length=128)
    return _cascade("paper", text, FORMATS, rows)


def mini() -> CascadeSpec:
    """The same seven formats for two CPU cores: folded pixels, x-prediction, 50 MB of weights."""
    base_unet = UNetSpec(
        widths=(128, 224, 256),
        blocks=(1, 2, 2),
        temporal="attention",
        temporal_levels=(0, 1, 2),
        attention_levels=(1, 2),
        cross_levels=(0,),
        patch=2,
        head_dim=32,
        predicts="x",
    )

    def sr(unet: UNetSpec, sampler: SamplerSpec, train: TrainSpec, aug=0.08) -> StageSpec:
        # What z shows by itself below log-SNR 0 is little beside the low-resolution video, and few
        # sampling steps go further: a plain loss on x at high noise learned fastest (docs/log.md).
        return _row(unet, sampler, train, logsnr_shift=-4.0, max_weight=1.0, aug_max=aug)

    def tsr(unet: UNetSpec, sampler: SamplerSpec, train: TrainSpec) -> StageSpec:
        # Taking away more noise than this would be most of what it learns (docs/log.md).
        return sr(unet, sampler, train, aug=0.04)

    def net(widths, blocks, patch: int, **options: Any) -> UNetSpec:
        everywhere: dict[str, Any] = {"temporal_levels": tuple(range(len(widths)))}
        return UNetSpec(
            widths=widths,
            blocks=blocks,
            patch=patch,
            temporal="conv",
            predicts="x",
            embed_dim=128,
            **(everywhere | options),
        )

    def steps(count: int, *, guidance: float = 0.0, window: int | None = None) -> SamplerSpec:
        weight = GuidanceSpec(weight=guidance)
        return SamplerSpec(num_steps=count, guidance=weight, aug_logsnr=12.0, window=window)

    def crops(clips, frames=None, crop=None, packs=0) -> TrainSpec:
        return TrainSpec(
            steps=8_000,
            clips=clips,
            image_packs=packs,
            frames=frames,
            crop=crop,
            learning_rate=4e-4,
            warmup=200,
            cooldown=2000,
            ema=0.999,
        )

    # Guided while things are decided; to the end it would leave a grid on flat grounds.
    guided = GuidanceSpec(weight=3.0, interval=(-10.0, 0.0))
    base = _row(
        base_unet,
        SamplerSpec(num_steps=16, guidance=guided, logsnr_shift=-1.5),
        replace(crops(2, packs=3), steps=40_000, cooldown=4000),
        logsnr_shift=-3.5,
        image_logsnr_shift=-1.5,
        max_weight=4.0,
    )

    rows = [
        base,
        tsr(
            net((96, 128), (2, 2), 2, attention_levels=(1,)),
            steps(16, guidance=1.0),
            crops(2, packs=1),
        ),
        sr(
            net((64, 96, 96), (1, 2, 2), 2, attention_levels=(2,), head_dim=32),
            steps(16, guidance=1.0),
            crops(2, frames=16, packs=1),
        ),
        sr(
            net((64, 96, 96), (1, 1, 2), 4, attention_levels=(2,), head_dim=32),
            steps(8),
            crops(2, frames=6, packs=1),
        ),
        tsr(
            net((64, 96, 96), (1, 1, 2), 4, norm="layer"),
            steps(8),
            crops(4, frames=8, crop=(96, 160)),
        ),
        tsr(
            net((64, 96, 96), (1, 1, 2), 4, norm="layer"),
            steps(8),
            crops(4, frames=8, crop=(96, 160)),
        ),
        sr(
            net((64, 96, 128), (1, 1, 2), 8, norm="layer", temporal_levels=(2,)),
            steps(8, window=16),
            crops(3, frames=4, crop=(256, 256), packs=1),
        ),
    ]
    return _cascade("mini", SHORT_CAPTIONS, FORMATS, rows)


def tiny(text: TextSpec | None = None) -> CascadeSpec:
    """Seven stages from 4x8x12 to 32x64x96 that train and sample in seconds: tests, documentation
    and bug reports use it. `text` is another encoder than the default."""
    sizes = "4x8x12@3 8x8x12@6 8x16x24@6 8x32x48@6 16x32x48@12 32x32x48@24 32x64x96@24"
    formats = tuple(map(VideoFormat.parse, sizes.split()))

    def row(patch: int, aug: float | None = 4.0, window: int | None = None, **unet) -> StageSpec:
        network = UNetSpec(
            widths=(16, 32),
            blocks=(1, 1),
            patch=patch,
            head_dim=16,
            embed_dim=32,
            **({"temporal": "conv", "temporal_levels": (0, 1), "predicts": "x"} | unet),
        )
        guidance = GuidanceSpec(weight=1.0) if unet.get("attention_levels") else GuidanceSpec()
        sampler = SamplerSpec(num_steps=2, guidance=guidance, aug_logsnr=aug, window=window)
        train = TrainSpec(
            steps=20, clips=2, image_packs=1, learning_rate=2e-3, warmup=5, cooldown=5, ema=0.9
        )
        return _row(network, sampler, train, logsnr_shift=-3.0, max_weight=8.0, aug_max=0.15)

    rows = [
        row(1, None, temporal="attention", attention_levels=(0, 1), predicts="v"),
        row(1, attention_levels=(1,), cross_levels=(0,)),
        row(2, attention_levels=(1,)),
        row(2, attention_levels=(1,)),
        row(4, norm="layer"),
        row(4, norm="layer"),
        row(8, window=8, norm="layer", temporal_levels=(1,)),
    ]
    return _cascade("tiny", text or SHORT_CAPTIONS, formats, rows)


PRESETS: dict[str, Callable[[], CascadeSpec]] = {"paper": paper, "mini": mini, "tiny": tiny}


def find(name: str) -> CascadeSpec:
    """A preset by name, a function of a Python file as `file.py:function`, a saved folder, or
    org/name of the hub."""
    if name in PRESETS:
        return PRESETS[name]()
    path, _, function = name.partition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), function)
    if (folder := located(name)).is_dir():
        return read_index(folder)
    raise ValueError(
        f"no preset {name!r}: give {', '.join(PRESETS)}, file.py:function, a cascade's folder, or "
        "org/name of the hub"
    )


def shipped(name: str) -> CascadeSpec:
    """As `find`, but mini as its weights are sampled, not as it is trained: in fewer steps."""
    return read_index(located(name)) if name == "mini" else find(name)


def _from_file(path: Path, function: str) -> CascadeSpec:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        found = runpy.run_path(str(path)).get(function)
    except SyntaxError as error:
        raise ValueError(f"{path} is no Python: line {error.lineno}, {error.msg}") from error
    spec = found() if _needs_nothing(found) else None
    if not isinstance(spec, CascadeSpec):
        raise ValueError(
            f"{path}:{function} must be a function that returns a CascadeSpec and needs nothing: "
            "give file.py:function"
        )
    return spec


def _needs_nothing(found: Any) -> TypeGuard[Callable[[], object]]:
    try:
        signature(found).bind()
    except TypeError:  # of what is no function, too
        return False
    return True
