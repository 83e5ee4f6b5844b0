"""What the API answers with."""

from typing import Any, Literal

from pydantic import BaseModel

from imagen_video.web import maker
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Job, Status
from imagen_video.web.offers import Offer, UpscaleRequest, VideoRequest, size_of


class Fault(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    error: Fault


class VideoFault(BaseModel):
    """Why a video is not there: `code` is cancelled, server_error, or a category of the filters."""

    code: str
    message: str


class Video(BaseModel):
    """A job. As OpenAI's object, and then: the seed and settings, the stage at work and its step,
    seconds left, jobs that are before it, the stages whose videos are there, and its kind."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    size: str
    seconds: str
    prompt: str
    error: VideoFault | None = None
    kind: Literal["generate", "upscale"]
    seed: int
    settings: dict[str, Any]
    stage: str | None = None
    step: int = 0
    num_steps: int = 0
    eta_seconds: float | None = None
    queued_before: int | None = None
    stages: list[str]


class Videos(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool

    @classmethod
    def of(cls, found: list[Video], *, more: bool) -> "Videos":
        ids = [video.id for video in found] or [None]
        return cls(data=found, first_id=ids[0], last_id=ids[-1], has_more=more)


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Model(BaseModel):
    """A cascade; `sizes` maps "WIDTHxHEIGHT" to the lengths in seconds that may be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "imagen-video"
    sizes: dict[str, list[str]]
    stages: list[str]


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str
    queued: int


def models(offer: Offer) -> Models:
    sizes = {size: offer.lengths(stage) for size, stage in offer.sizes.items()}
    names = [stage.name for stage in offer.spec.stages]
    return Models(data=[Model(id=offer.spec.name, sizes=sizes, stages=names)])


def video(desk: Desk, job: Job) -> Video:
    """A job as the API shows it."""
    request = maker.asked(job)
    live = desk.live.get(job.id) if job.status == "in_progress" else None
    expires = desk.expires(job)
    size, seconds = _shape(desk, request, job)
    names = [stage.name for stage in desk.offer.stages(request)]
    fault = VideoFault(code=job.error, message=job.message or "") if job.error else None
    return Video(
        id=job.id,
        model=desk.offer.spec.name,
        status=job.status,
        progress=100 if job.status == "completed" else int(100 * live.share) if live else 0,
        created_at=int(job.created),
        completed_at=None if job.status != "completed" else int(job.completed or 0),
        expires_at=None if expires is None else int(expires),
        prompt=request.prompt,
        error=fault,
        kind="upscale" if isinstance(request, UpscaleRequest) else "generate",
        seed=request.seed,
        settings=request.model_dump(exclude={"prompt", "seed", "model"}, exclude_defaults=True),
        stage=live.stage if live else job.stage,
        step=live.step if live else 0,
        num_steps=live.num_steps if live else 0,
        eta_seconds=round(live.eta, 1) if live and live.eta is not None else None,
        queued_before=desk.jobs.waiting(before=job) if job.status == "queued" else None,
        stages=names[: names.index(job.stage) + 1] if job.stage else [],
        size=size,
        seconds=seconds,
    )


def _shape(desk: Desk, request: VideoRequest | UpscaleRequest, job: Job) -> tuple[str, str]:
    """Size and seconds of what is made; of an upscaling they are known from its upload."""
    if isinstance(request, UpscaleRequest):
        facts = job.request[maker.UPLOAD]
        return facts["size"], facts["seconds"]
    stage = desk.offer.stage(request.size)
    return size_of(*stage.output.size), request.seconds or desk.offer.lengths(stage)[-1]
