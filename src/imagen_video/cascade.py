"""The whole cascade: a prompt in, a video out, one stage after the other."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from imagen_video import __version__
from imagen_video.card import check_shareable, model_card
from imagen_video.distributed import device_of
from imagen_video.hub import push
from imagen_video.index import located, read_index, write_index
from imagen_video.info import describe
from imagen_video.pipeline import Part, shared_out, side_by_side
from imagen_video.sampling import (
    Low,
    Progress,
    Run,
    Sample,
    SampleSpec,
    check_wishes,
    run_in_parts,
    run_stages,
)
from imagen_video.spec import CascadeSpec, SamplerSpec
from imagen_video.stage import Stage
from imagen_video.text.cache import load_keeping
from imagen_video.text.encoder import TextEmbedding, TextEncoder, checked
from imagen_video.video import Frames
from imagen_video.weights import load_stage, save_stage, working_dtype

# log-SNR of the noise on a video that is upscaled, at least: a standard deviation of 0.05.
FAITHFUL = 6.0


class Cascade:
    """Stages and the text encoder all of them read; sizes and order are in `spec`."""

    def __init__(
        self,
        spec: CascadeSpec,
        stages: Sequence[Stage],
        encoder: TextEncoder,
        *,
        lanes: Sequence[int] = (),
    ):
        """Stages of different `lanes` (a number each, in order) work on videos of different prompts
        at once: for stages on different devices. By default there is one lane."""
        if [stage.spec for stage in stages] != list(spec.stages):
            raise ValueError(f"the stages do not match cascade {spec.name!r}")
        self.spec, self.stages, self.encoder = spec, tuple(stages), encoder
        self.lanes = tuple(lanes) or (0,) * len(self.stages)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mini",
        *,
        device: str | torch.device | Sequence[str] = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> "Cascade":
        """Load "mini", which comes with the package, a folder of `save_pretrained`, or org/name of
        the Hugging Face hub (a branch, tag or commit of it); in the device's `working_dtype` unless
        another is asked for.

        Several devices share the stages, each some in a row, and `stream` keeps all of them busy
        where there is more than one prompt."""
        folder = located(name, revision=revision, weights=True)
        spec = read_index(folder)
        names = [device] if isinstance(device, str | torch.device) else device
        places = [device_of(name) for name in names]
        lanes = [0] * len(spec.stages)
        if len(places) > 1:
            lanes = shared_out([row.flops for row in describe(spec)], len(places))
        stages = [
            load_stage(folder / stage.name, device=place, dtype=dtype or working_dtype(place))
            for stage, place in zip(spec.stages, (places[lane] for lane in lanes), strict=True)
        ]
        return cls(spec, stages, load_keeping(spec.text), lanes=lanes)

    def with_stages(self, *others: Stage) -> "Cascade":
        """The cascade with these in the places of the stages of their names."""
        by_name = {stage.spec.name: stage for stage in others}
        stages = [by_name.get(stage.spec.name, stage) for stage in self.stages]
        spec = replace(self.spec, stages=tuple(stage.spec for stage in stages))
        return Cascade(spec, stages, self.encoder, lanes=self.lanes)

    def with_sampler(self, name: str, sampler: SamplerSpec) -> "Cascade":
        """The same weights, one stage sampled otherwise."""
        stage = self.stages[self.spec.index(name)]
        return self.with_stages(Stage(replace(stage.spec, sampler=sampler), stage.unet))

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write model_index.json and a folder a stage."""
        folder = Path(folder)
        for stage in self.stages:
            save_stage(stage, folder / stage.spec.name, dtype=dtype)
        write_index(folder, self.spec)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        dtype: torch.dtype | None = None,
        card: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes as org/name of the Hugging Face hub, with a README
        (default: `model_card`); returns its address."""
        check_shareable(self.spec)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            (Path(folder) / "README.md").write_text(card or model_card(name, self.spec))
            return push(Path(folder), name, private=private, token=token)

    def __call__(self, prompts: str | Sequence[str], **options: Any) -> Sample:
        """Sample one video a prompt; `options` are the fields of `SampleSpec`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        wanted = SampleSpec(**options)
        return self.collect(self.stream(prompts, wanted), prompts, wanted)

    def collect(
        self, steps: Iterator[Progress], prompts: Sequence[str], wanted: SampleSpec
    ) -> Sample:
        """The videos of all stages of a `stream` of these."""
        videos: dict[str, list[Frames]] = {}
        fps = 0.0
        for progress in steps:
            if progress.video is not None:
                videos.setdefault(progress.stage, []).append(progress.video)
                fps = progress.fps
        stages = {name: torch.stack(found) for name, found in videos.items()}
        facts = tuple(self.metadata(prompts, i, wanted) for i in range(len(prompts)))
        return Sample(stages[list(stages)[-1]], fps, stages, facts)

    def stream(
        self,
        prompts: Sequence[str],
        wanted: SampleSpec,
        *,
        low: Frames | None = None,
        low_fps: float | None = None,
    ) -> Iterator[Progress]:
        """Sample prompt after prompt, stage after stage; a Progress every step. With several lanes
        a stage of one prompt's video runs beside an earlier one of the next, and so do their steps.

        The same seed and prompt give the same video in any list; a prompt given n times gives n
        videos. `low` is the video that `wanted.start` begins from, at `low_fps` frames a second
        (default: the rate that stage expects).
        """
        if not all(prompt.strip() for prompt in checked(prompts)):
            raise ValueError("every prompt needs some text; to sample without one, use guidance 0")
        stages = self.plan(wanted, low_frames=None if low is None else len(low))
        first = stages[0].spec
        given = None
        if low is not None and first.input is not None:
            given = Low(low, low_fps or first.input.fps)
        embedding = self.encoder([*prompts, wanted.negative_prompt])
        seen: Counter[str] = Counter()
        runs = []
        for i, prompt in enumerate(prompts):
            rows = [i, len(prompts)] if wanted.negative_prompt else [i]
            text = TextEmbedding(embedding.tokens[rows], embedding.mask[rows])
            runs.append(Run(i, seen[prompt], wanted, text))
            seen[prompt] += 1
        parts = self._parts(stages)
        if len(parts) > 1:
            yield from side_by_side(parts, runs, given)
            return
        for run in runs:
            yield from parts[0](run, given)

    def plan(self, wanted: SampleSpec, *, low_frames: int | None = None) -> list[Stage]:
        """The stages that a call runs, on a video of `low_frames` frames if it starts from one.

        Raises ValueError for a name that is not there and for whatever cannot be made.
        """
        names = [stage.name for stage in self.spec.stages]
        first = self.spec.index(wanted.start) if wanted.start else 0
        last = self.spec.index(wanted.until) if wanted.until else len(names) - 1
        if first > last:
            raise ValueError(f"{wanted.start!r} comes after {wanted.until!r}: {', '.join(names)}")
        stages = list(self.stages[first : last + 1])
        if wanted.num_frames == 1:
            stages = [stage for stage in stages if stage.spec.kind != "tsr"]
        if not stages:
            raise ValueError(f"one frame needs no {' and '.join(names[first : last + 1])}")
        if (low_frames is None) != (stages[0].spec.kind == "base"):
            raise ValueError(
                f"stage {stages[0].spec.name!r} starts from a video: give one"
                if low_frames is None
                else "the base stage starts from noise, not from a video: name a later stage"
            )
        check_wishes(stages, wanted, low_frames)
        return stages

    def _parts(self, stages: list[Stage]) -> list[Part]:
        """The stages of each lane, in order."""
        parts: list[Part] = []
        first = 0
        for _, group in groupby(stages, lambda s: self.lanes[self.spec.index(s.spec.name)]):
            count = len(list(group))
            parts.append(partial(run_stages, stages[first:], count))
            first += count
        return parts

    def upscale(
        self,
        video: Frames,
        prompt: str = "",
        *,
        fps: float | None = None,
        stages: Sequence[str] = ("ssr3",),
        seed: int = 0,
        steps: int | None = None,
    ) -> Iterator[Progress]:
        """Super-resolve a real video, or another generator's: any size and frame count.

        The video is padded to a legal size and cropped back, never rescaled; little augmentation
        and no guidance, so that it stays what it is. `fps` is its rate (default: what the first
        stage expects). Yields as `stream` does.
        """
        chosen = [self.stages[self.spec.index(name)] for name in stages]
        if not chosen:
            raise ValueError(f"name an upsampling stage of {self.spec.name!r}, such as 'ssr3'")
        if any(stage.spec.kind == "base" for stage in chosen):
            raise ValueError("the base stage makes videos from noise: name an upsampling stage")
        wanted = SampleSpec(seed=seed, steps=steps, guidance=0.0)
        text = self.encoder([prompt])
        if not prompt.strip():  # training dropped captions whole, and never showed an empty one
            text = replace(text, mask=torch.zeros_like(text.mask))
        run = Run(0, 0, wanted, text)
        low = Low(video, fps or chosen[0].spec.output.fps / chosen[0].spec.time_factor)
        for stage in chosen:
            for progress in run_in_parts(_faithful(stage), run, low):
                yield progress
                if progress.video is not None:
                    low = Low(progress.video, progress.fps)

    def metadata(
        self, prompts: Sequence[str], index: int, wanted: SampleSpec, **more: Any
    ) -> dict[str, Any]:
        """What it takes to make video `index` of a call again: `repetition` counts the same prompt
        before it. `more` is added."""
        prompt = prompts[index]
        return {
            "prompt": prompt,
            "repetition": list(prompts[:index]).count(prompt),
            **asdict(wanted),
            **more,
            "model": self.spec.name,
            "dtype": str(next(self.stages[0].unet.parameters()).dtype).removeprefix("torch."),
            "encoder": self.encoder.name,
            "version": __version__,
            "spec": asdict(self.spec),
        }


def _faithful(stage: Stage) -> Stage:
    """The stage with little noise on the video that it starts from."""
    sampler = stage.spec.sampler
    level = max(sampler.aug_logsnr or FAITHFUL, FAITHFUL)
    return Stage(replace(stage.spec, sampler=replace(sampler, aug_logsnr=level)), stage.unet)
