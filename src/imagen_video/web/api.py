"""The HTTP API, in the shape of OpenAI's videos endpoint, with settings and events of our own."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import UploadFile
from starlette.routing import Match

from imagen_video import __version__
from imagen_video.safety import Refused
from imagen_video.web.bodies import FORM, body, idempotency_key, is_key, read_body
from imagen_video.web.desk import Desk
from imagen_video.web.jobs import Full, Job, Taken
from imagen_video.web.offers import UpscaleRequest, VideoRequest
from imagen_video.web.views import Deleted, Error, Health, Models, Video, Videos, models, video

# Seconds between two looks at a job that is watched, and between two signs of life.
LOOK, BEAT = 0.2, 15.0
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
WORDS = {
    400: "What was asked for cannot be made",
    401: "No key, or a wrong one",
    404: "No such video",
    409: "Not now, or a repeated key with another request",
    413: "The body is too large",
    429: "The queue is full",
}
FILE = {"video/mp4": {}, "image/webp": {}}
bearer = HTTPBearer(auto_error=False, description="A key of `serve --api-key`")


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The schema of what a route answers instead."""
    return {code: {"model": Error, "description": WORDS[code]} for code in (401, *codes)}


def the_desk(request: Request) -> Desk:
    return request.app.state.desk


def admit(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """401 for a request without a key, where the server has any."""
    keys: Sequence[str] = request.app.state.keys
    if keys and not is_key(given.credentials if given else "", keys):
        raise HTTPException(401, "give a valid key as 'Authorization: Bearer KEY'")


Opened = Annotated[Desk, Depends(the_desk)]


def find(video_id: str, desk: Opened) -> Job:
    job = desk.jobs.get(video_id)
    if job is None:
        raise HTTPException(404, "there is no such video")
    return job


async def read(request: Request) -> AsyncIterator[dict[str, Any]]:
    """The fields of a body, whose files are there until the answer."""
    try:
        yield await read_body(request)
    finally:
        await request.close()


Found = Annotated[Job, Depends(find)]
Fields = Annotated[dict[str, Any], Depends(read)]
v1 = APIRouter(prefix="/v1", dependencies=[Depends(admit)])
operation = APIRouter(tags=["operation"])


@v1.post(
    "/videos",
    tags=["videos"],
    responses=errors(400, 409, 413, 429),
    openapi_extra=body(VideoRequest, "application/json", FORM),
)
async def create(request: Request, desk: Opened, fields: Fields) -> Video:
    """Queue a video."""
    asked = VideoRequest.model_validate(fields)
    job = await accepted(desk.submit, asked, key=idempotency_key(request))
    return await run_in_threadpool(video, desk, job)


@v1.post(
    "/videos/upscale",
    tags=["videos"],
    responses=errors(400, 409, 413, 429),
    openapi_extra=body(UpscaleRequest, FORM, file=True),
)
async def upscale(request: Request, desk: Opened, fields: Fields) -> Video:
    """Queue the upscaling of an uploaded video: every frame is kept, nothing is rescaled."""
    upload = fields.pop("video", None)
    if not isinstance(upload, UploadFile):
        raise HTTPException(400, "video must be a file in a multipart form")
    names = fields.get("stages")
    if isinstance(names, str):
        fields["stages"] = [name.strip() for name in names.split(",") if name.strip()]
    asked = UpscaleRequest.model_validate(fields)
    file = cast(BinaryIO, upload.file)
    job = await accepted(desk.submit_upload, asked, file, key=idempotency_key(request))
    return await run_in_threadpool(video, desk, job)


@v1.get("/videos", tags=["videos"], responses=errors(400))
def list_videos(
    desk: Opened,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Videos:
    """Videos in order of creation, from the one behind `after` on."""
    start = desk.jobs.get(after) if after is not None else None
    if after is not None and start is None:
        raise HTTPException(400, "after must be the id of a video")
    found = desk.jobs.page(after=start, limit=limit + 1, newest_first=order == "desc")
    return Videos.of([video(desk, job) for job in found[:limit]], more=len(found) > limit)


@v1.get("/videos/{video_id}", tags=["videos"], responses=errors(400, 404))
def retrieve(desk: Opened, job: Found) -> Video:
    """How a video stands."""
    return video(desk, job)


@v1.head("/videos/{video_id}/content", response_class=FileResponse, include_in_schema=False)
@v1.get(
    "/videos/{video_id}/content",
    tags=["videos"],
    response_class=FileResponse,
    responses={
        200: {"content": FILE, "description": "The file"},
        206: {"content": FILE, "description": "A part of it"},
        416: {"content": {"text/plain": {}}, "description": "It has no such part"},
        **errors(400, 404, 409),
    },
)
def content(
    desk: Opened,
    job: Found,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
    stage: Annotated[str | None, Query(max_length=50)] = None,
) -> FileResponse:
    """The finished video, pictures of it, or the video of a stage that is finished."""
    stages, folder = video(desk, job).stages, desk.jobs.folder(job.id)
    if stage is not None and stage not in stages:
        known = ", ".join(stages) or "none yet"
        raise HTTPException(404, f"no finished stage of that name; finished: {known}")
    if stage is None and job.status != "completed":
        raise HTTPException(409, f"the video is not there: it is {job.status}")
    if variant == "video":
        path = folder / f"{stage or job.stage}.mp4"
        return FileResponse(path, media_type="video/mp4", filename=f"{job.id}.mp4")
    if stage is not None:
        raise HTTPException(400, "pictures are of the finished video: leave stage out")
    return FileResponse(folder / f"{variant}.webp", media_type="image/webp")


@v1.get(
    "/videos/{video_id}/events",
    tags=["videos"],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"},
        **errors(400, 404),
    },
)
def events(desk: Opened, job: Found) -> StreamingResponse:
    """`progress` (a video object) at every step, `preview` (an animated WebP as a data URL) now and
    then, and at last `completed`, `failed` or `deleted`."""
    return StreamingResponse(told(desk, job.id), media_type="text/event-stream")


@v1.post("/videos/{video_id}/cancel", tags=["videos"], responses=errors(400, 404, 409))
def cancel(desk: Opened, job: Found) -> Video:
    """End a video within one step; it stays listed, as failed."""
    if job.over:
        raise HTTPException(409, f"the video is {job.status} already")
    desk.cancel(job)
    return video(desk, find(job.id, desk))


@v1.delete("/videos/{video_id}", tags=["videos"], responses=errors(400, 404))
def delete(desk: Opened, job: Found) -> Deleted:
    """Remove a video and its files; one in the making ends within one step."""
    desk.delete(job)
    return Deleted(id=job.id)


@v1.get("/models", tags=["models"], responses=errors())
def list_models(desk: Opened) -> Models:
    """The cascade, with the sizes and lengths that it makes."""
    return models(desk.offer)


@v1.api_route("/{path:path}", methods=METHODS, include_in_schema=False)
def unknown(request: Request) -> None:
    """404, or 405 for another method of a route: the page at / would say it in its own way."""
    there = {
        method
        for route in v1.routes
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
    if there:
        raise HTTPException(405, "no such method here", {"Allow": ", ".join(sorted(there))})
    raise HTTPException(404, "there is no such address")


@operation.head("/health", include_in_schema=False)
@operation.get("/health")
def health(desk: Opened) -> Health:
    """Answers while the server takes requests."""
    return Health(version=__version__, queued=desk.jobs.waiting())


@operation.get(
    "/metrics",
    dependencies=[Depends(admit)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Metrics"}, **errors()},
)
def metrics(desk: Opened) -> Response:
    """Prometheus' text format."""
    return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")


def add_routes(app: FastAPI, desk: Desk, keys: Sequence[str]) -> None:
    """Everything below /v1, /health and /metrics; no keys let anyone in."""
    app.state.desk, app.state.keys = desk, tuple(keys)
    app.include_router(v1)
    app.include_router(operation)


async def accepted(submit: Callable[..., Job], *asked: Any, key: str | None) -> Job:
    """The queued job; what cannot be queued is the client's error."""
    try:
        return await run_in_threadpool(submit, *asked, key=key)
    except Full as error:
        raise HTTPException(429, f"{error}: try later", headers={"Retry-After": "60"}) from error
    except Refused:
        raise
    except ValueError as error:
        raise HTTPException(409 if isinstance(error, Taken) else 400, str(error)) from error


async def told(desk: Desk, id: str) -> AsyncIterator[str]:
    """The events of one job until it is over or the server ends."""
    said, seen, beat = "", b"", 0.0
    while not desk.stopping.is_set():
        job = await run_in_threadpool(desk.jobs.get, id)
        if job is None:
            yield event("deleted", json.dumps({"id": id}))
            return
        facts = (await run_in_threadpool(video, desk, job)).model_dump_json()
        if job.over:
            yield event(job.status, facts)
            return
        live = desk.live.get(id)
        if facts != said:
            said, beat = facts, 0.0
            yield event("progress", facts)
        if live is not None and live.preview != seen:
            seen = live.preview
            image = "data:image/webp;base64," + base64.b64encode(seen).decode()
            yield event("preview", json.dumps({"id": id, "stage": live.stage, "image": image}))
        await asyncio.sleep(LOOK)
        beat += LOOK
        if beat >= BEAT:
            beat = 0.0
            yield ": still here\n\n"


def event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
