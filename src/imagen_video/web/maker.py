"""One job made: sampled from its last finished stage on, every stage saved as it ends."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from imagen_video.cascade import Cascade
from imagen_video.files import replacing
from imagen_video.safety import Filters, filtered
from imagen_video.sampling import Low, Progress, SampleSpec, Writer, save_video
from imagen_video.spec import StageSpec
from imagen_video.video import VideoClip, read_video
from imagen_video.web import previews
from imagen_video.web.jobs import Job
from imagen_video.web.offers import Offer, UpscaleRequest, VideoRequest, tuned
from imagen_video.web.pace import Leg

UPLOAD = "upload"
"""The name of an uploaded video's file, and of what is known of it in the request of a job."""


@dataclass(frozen=True)
class Task:
    """What a job is to a worker: the legs of all its stages, and the steps that are left."""

    legs: list[Leg]
    steps: Iterator[Progress]
    facts: dict[str, Any]


def asked(job: Job) -> VideoRequest | UpscaleRequest:
    """The request of a job, which says of itself that it was accepted."""
    kind = UpscaleRequest if UPLOAD in job.request else VideoRequest
    return kind(**{name: value for name, value in job.request.items() if name != UPLOAD})


def task(cascade: Cascade, job: Job, folder: Path, filters: Filters | None) -> Task:
    """How to make a job, from its last finished stage on."""
    request = asked(job)
    if isinstance(request, UpscaleRequest):
        clip = read_video(folder / UPLOAD, max_frames=job.request[UPLOAD]["frames"])
        return _upscaling(cascade, request, job.stage, folder, clip, filters)
    return _making(cascade, request, job.stage, folder, filters)


def _making(
    cascade: Cascade, request: VideoRequest, done: str | None, folder: Path, filters: Filters | None
) -> Task:
    cascade = tuned(cascade, request)
    wanted = Offer.of(cascade.spec).wanted(request)
    stages = [stage.spec for stage in cascade.plan(wanted)]
    scale = (wanted.num_frames or 0) / stages[-1].output.frames
    facts = cascade.metadata([request.prompt], 0, wanted)
    left = _after(stages, done)
    steps: Iterator[Progress] = iter(())
    if left and done:
        low = _low(folder, done)
        wanted = replace(wanted, start=left[0].name)
        steps = filtered(cascade, filters).stream(
            [request.prompt], wanted, low=low.frames, low_fps=low.fps
        )
    elif left:
        steps = filtered(cascade, filters).stream([request.prompt], wanted)
    return Task([Leg(stage, scale) for stage in stages], steps, facts)


def _upscaling(
    cascade: Cascade,
    request: UpscaleRequest,
    done: str | None,
    folder: Path,
    clip: VideoClip,
    filters: Filters | None,
) -> Task:
    stages = Offer.of(cascade.spec).upsampling(request)
    values, legs = clip.frames[:, 0].numel(), []
    for stage in stages:
        values *= stage.time_factor * stage.space_factor**2
        output = stage.output
        legs.append(Leg(stage, values / (output.frames * output.height * output.width)))
    wanted = SampleSpec(seed=request.seed, steps=request.steps, guidance=0.0)
    names = [stage.name for stage in stages]
    facts = cascade.metadata([request.prompt], 0, wanted, stages=names)
    left = _after(stages, done)
    steps: Iterator[Progress] = iter(())
    if left:
        start = _low(folder, done) if done else Low(clip.frames, clip.fps)
        steps = filtered(cascade, filters).upscale(
            start.frames,
            request.prompt,
            fps=start.fps,
            stages=[stage.name for stage in left],
            seed=request.seed,
            steps=request.steps,
        )
    return Task(legs, steps, facts)


def _after(stages: list[StageSpec], name: str | None) -> list[StageSpec]:
    """The stages behind one; all of them behind none."""
    return stages[[stage.name for stage in stages].index(name) + 1 :] if name else stages


def keep(
    folder: Path, progress: Progress, facts: dict[str, Any], writer: Writer, *, last: bool
) -> None:
    """Write a stage's finished video as NAME.mp4, and what goes on from it: the exact frames, or
    pictures of the last."""
    assert progress.video is not None
    path = folder / f"{progress.stage}.mp4"
    save_video(path, progress.video, fps=progress.fps, metadata=facts, writer=writer)
    if last:
        _write(folder / "thumbnail.webp", previews.thumbnail(progress.video))
        _write(folder / "spritesheet.webp", previews.spritesheet(progress.video))
        return
    with replacing(_exact(folder, progress.stage)) as path:
        save_file({"frames": progress.video}, path, metadata={"fps": repr(progress.fps)})


def forget(folder: Path, *, but: str | None = None) -> None:
    """Remove the exact frames of all stages, or of all but one."""
    for path in folder.glob("*.safetensors"):
        if path.stem != but:
            path.unlink(missing_ok=True)


def _low(folder: Path, stage: str) -> Low:
    """The exact frames of a finished stage."""
    with safe_open(_exact(folder, stage), "pt") as file:
        return Low(file.get_tensor("frames"), float(file.metadata()["fps"]))


def _exact(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.safetensors"


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)
