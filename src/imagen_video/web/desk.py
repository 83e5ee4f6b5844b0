"""What the API and the page share: requests become jobs, workers make them, anyone may watch."""

import contextlib
import hashlib
import logging
import shutil
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from imagen_video.cascade import Cascade
from imagen_video.provenance import Marks
from imagen_video.safety import Filters, Refusal, Refused
from imagen_video.safety.frames import READABLE
from imagen_video.sampling import Progress, Writer
from imagen_video.video import VideoWriter
from imagen_video.web import maker, previews
from imagen_video.web.jobs import Job, Jobs, new_id
from imagen_video.web.metrics import Metrics
from imagen_video.web.offers import Offer, Settings, UpscaleRequest, VideoRequest, tuned
from imagen_video.web.pace import Journey, Pace
from imagen_video.web.uploads import Limits, check_upload

LOG = logging.getLogger("imagen_video.web")
# Seconds between two previews: a step of the first stages may take less than drawing it.
PREVIEW = 1.0
HOUR, DAY = 3600, 86400


@dataclass
class Live:
    """A job in the making: written by its worker, read by whoever watches."""

    stage: str = ""
    step: int = 0
    num_steps: int = 0
    share: float = 0.0
    eta: float | None = None
    preview: bytes = field(default=b"", repr=False)
    shown: float = 0.0
    passed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)


class Desk:
    """Jobs of one cascade, with one worker for each copy of it (each on its device)."""

    def __init__(
        self,
        cascades: Sequence[Cascade],
        jobs: Jobs,
        *,
        limits: Limits,
        filters: Filters | None = None,
        marks: Marks | None = None,
    ):
        """`filters` refuse prompts and withhold videos, `marks` go into every video."""
        self.cascades, self.jobs, self.limits = cascades, jobs, limits
        self.filters, self.marks = filters, marks
        self.offer = Offer.of(cascades[0].spec)
        jobs.belong_to(self.offer.facts())
        self.pace = Pace(cascades[0].spec)
        self.metrics = Metrics(jobs.waiting)
        self.live: dict[str, Live] = {}
        self.stopping = threading.Event()
        self._queued, self._pruned = threading.Condition(), 0.0
        self._workers = [
            threading.Thread(target=self._work, args=(cascade,), name=f"worker-{i}", daemon=True)
            for i, cascade in enumerate(cascades)
        ]

    def start(self) -> None:
        """Go on with what is queued; what an ended server left goes first."""
        self.jobs.recover()
        self.prune()
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End every worker after its step; what it worked on waits for the next start."""
        self.stopping.set()
        with self._queued:
            self._queued.notify_all()
        for worker in self._workers:
            worker.join()
        self.jobs.close()

    def submit(self, request: VideoRequest, *, key: str | None = None) -> Job:
        """Queue a video; ValueError for what cannot be made, Refused for what the filters refuse,
        `jobs.Full` where too many wait."""
        wanted = self.offer.wanted(request)
        tuned(self.cascades[0], request).plan(wanted)
        return self._add(new_id(), request, key)

    def submit_upload(
        self, request: UpscaleRequest, upload: BinaryIO, *, key: str | None = None
    ) -> Job:
        """Queue the upscaling of a video; errors as `submit`."""
        stages = self.offer.upsampling(request)
        id = new_id()
        folder = self.jobs.folder(id)
        folder.mkdir()
        try:
            with open(folder / maker.UPLOAD, "wb") as file:
                shutil.copyfileobj(upload, file)
            facts = check_upload(folder / maker.UPLOAD, stages, self.limits)
            with open(folder / maker.UPLOAD, "rb") as file:  # a repeated request is of the same one
                facts["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            job = self._add(id, request, key, **{maker.UPLOAD: facts})
        except BaseException:
            self.jobs.remove_files(id)
            raise
        if job.id != id:  # a repeated request: the first has its own
            self.jobs.remove_files(id)
        return job

    def _add(self, id: str, request: Settings, key: str | None, **more: Any) -> Job:
        self._refuse(request.prompt)
        facts = {**request.model_dump(), **more}
        if key and "seed" not in request.model_fields_set:
            # The repeated request is to be the same one.
            facts["seed"] = zlib.crc32(key.encode()) >> 1
        job = self.jobs.add(id, facts, most=self.limits.queue, key=key)
        with self._queued:
            self._queued.notify()
        return job

    def _refuse(self, prompt: str) -> None:
        if self.filters is None:
            return
        try:
            self.filters.refuse_prompts([prompt])
        except Refused as error:
            self.metrics.refused("prompt", error.refusal.category)
            raise

    def cancel(self, job: Job) -> None:
        """End a job that is not over: it fails as cancelled, at once or after the current step."""
        self._fail(job, "cancelled", "cancelled on request")
        if not self._end(job):
            maker.forget(self.jobs.folder(job.id))

    def delete(self, job: Job) -> None:
        """Remove a job and its files, ending it first where it is not over."""
        self.jobs.delete(job.id)
        if not self._end(job):
            self.jobs.remove_files(job.id)

    def _end(self, job: Job) -> bool:
        """Tell the worker of a job to leave it; whether there was one."""
        live = self.live.get(job.id)
        if live is not None:
            live.ended.set()
        return live is not None

    def prune(self) -> None:
        """Remove the oldest finished jobs: those kept long enough, and while videos fill too much
        of the disk."""
        self._pruned = time.monotonic()
        over = [(job, _size(self.jobs.folder(job.id))) for job in self.jobs.over()]
        oldest = time.time() - self.limits.keep_days * DAY
        most = self.limits.disk_share * shutil.disk_usage(self.jobs.videos).total
        used = sum(size for _, size in over)
        for job, size in over:
            if (job.completed or 0) > oldest and used <= most:
                break
            used -= size
            self.delete(job)
            LOG.info("%s pruned", job.id)

    def expires(self, job: Job) -> float | None:
        """When a finished job will be pruned at the latest, in seconds since 1970."""
        return None if job.completed is None else job.completed + self.limits.keep_days * DAY

    def _work(self, cascade: Cascade) -> None:
        """A worker's life."""
        while not self.stopping.is_set():
            try:
                job = self.jobs.claim()
                if job is not None:
                    self._work_on(cascade, job)
                    continue
                if time.monotonic() - self._pruned > HOUR:
                    self.prune()
            except Exception:  # a full disk, say, that not even the failure could be written to
                LOG.exception("a worker goes on after an error")
            with self._queued:
                if not self.stopping.is_set():
                    self._queued.wait(timeout=1)

    def _work_on(self, cascade: Cascade, job: Job) -> None:
        """Make a job, or note why it could not be made."""
        live = self.live[job.id] = Live()
        try:
            self._make(cascade, job, live)
        except Refused as error:
            self._withhold(job, error.refusal)
        except Exception as error:
            LOG.exception("%s failed", job.id)
            self._fail(job, "server_error", f"{type(error).__name__}: see the server's log")
        finally:
            del self.live[job.id]
            row = self.jobs.get(job.id)
            if row is None:  # deleted meanwhile
                self.jobs.remove_files(job.id)
            elif row.over:
                maker.forget(self.jobs.folder(job.id))
        self.prune()

    def _make(self, cascade: Cascade, job: Job, live: Live) -> None:
        folder, done = self.jobs.folder(job.id), job.stage
        folder.mkdir(exist_ok=True)
        row = self.jobs.get(job.id)
        if row is None or row.over:  # ended before anyone could tell the worker
            return
        task = maker.task(cascade, job, folder, self.filters)
        journey = Journey(task.legs, self.pace, after=done)
        last = task.legs[-1].stage.name
        writer = self._writer(job, folder)
        began = time.monotonic()
        for progress in task.steps:
            _show(live, progress, journey, filtered=self.filters is not None)
            if live.ended.is_set():
                return
            if self.stopping.is_set() and progress.video is None:
                self.jobs.release(job.id)
                return
            if progress.video is None:
                continue
            maker.keep(folder, progress, task.facts, writer, last=progress.stage == last)
            if not self.jobs.reach(job.id, progress.stage):
                return
            done = progress.stage
            maker.forget(folder, but=done)
            self.metrics.stage(done, time.monotonic() - began)
            began = time.monotonic()
        if self.jobs.complete(job.id):
            self.metrics.ended("completed")
            LOG.info("%s completed", job.id)

    def _writer(self, job: Job, folder: Path) -> Writer:
        """How the job's videos are written; what was uploaded is named as their source."""
        if self.marks is None:
            return VideoWriter
        source = folder / maker.UPLOAD if maker.UPLOAD in job.request else None
        return partial(self.marks.writer, source=source)

    def _withhold(self, job: Job, refusal: Refusal) -> None:
        if self.jobs.withhold(job.id, refusal.category, refusal.reason):
            self.jobs.remove_files(job.id)
            self.metrics.refused("video", refusal.category)
            self.metrics.ended("failed")
            LOG.info("%s withheld: %s", job.id, refusal.category)

    def _fail(self, job: Job, code: str, message: str) -> None:
        if self.jobs.fail(job.id, code, message):
            self.metrics.ended("failed")
            LOG.info("%s failed: %s", job.id, code)


def _show(live: Live, progress: Progress, journey: Journey, *, filtered: bool) -> None:
    """Make a step visible, and now and then the video as it is then. With filters, what can be read
    is not shown before they have passed the first such video: they look when it is finished."""
    journey.step(progress)
    finished, now = progress.video is not None, time.monotonic()
    readable = progress.state.z.shape[-2] >= READABLE
    live.passed |= finished and readable
    hidden = filtered and readable and not live.passed
    if not hidden and (finished or now - live.shown >= PREVIEW):
        frames = progress.preview() if progress.video is None else progress.video
        live.preview = previews.animated(frames, seconds=len(frames) / progress.fps)
        live.shown = now
    live.share, live.eta = journey.share, journey.eta
    live.stage, live.step, live.num_steps = progress.stage, progress.step + 1, progress.num_steps


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, which may go away meanwhile."""
    sizes = 0
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes
