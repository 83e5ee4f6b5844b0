"""The web page: a Gradio app over the same desk as the API."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
from pydantic import ValidationError

from imagen_video.safety import Refused
from imagen_video.spec import StageSpec
from imagen_video.web.bodies import first_fault, refused_in_words
from imagen_video.web.desk import DAY, HOUR, Desk
from imagen_video.web.jobs import Full, Job
from imagen_video.web.markup import EMPTY, player, said, standing, table
from imagen_video.web.offers import PROMPT, UpscaleRequest, VideoRequest
from imagen_video.web.views import Video, video

EXAMPLES = (
    "a duck moving left to right on a blue background, 3D render",
    "a rocket rising on a black background, flat vector art",
    "a pizza spinning on a green background",
    "a star growing on a pink background, line art",
)
# Seconds between two looks at a job; jobs that the gallery shows.
LOOK, SHOWN = 0.4, 60


class Page:
    """The components of the page and what they do, in order of appearance."""

    def __init__(self, desk: Desk):
        self.desk, self.spec = desk, desk.offer.spec

    def blocks(self) -> gr.Blocks:
        cleared = (HOUR, DAY)  # what is uploaded to the page: looked at so often, kept so long
        with gr.Blocks(
            title="imagen-video", analytics_enabled=False, delete_cache=cleared
        ) as blocks:
            gr.Markdown(f"# imagen-video\nVideos from text, by `{self.spec.name}`.")
            with gr.Tabs() as tabs:
                with gr.Tab("Make", id="make"):
                    again = self._make_tab()
                with gr.Tab("Gallery", id="gallery") as gallery:
                    self._gallery_tab(gallery, tabs, again)
                with gr.Tab("Upscale", id="upscale"):
                    self._upscale_tab()
        return blocks.queue(default_concurrency_limit=None)

    def _make_tab(self) -> dict[str, Any]:
        """Returns what "again with another seed" fills in and starts."""
        sizes = list(self.desk.offer.sizes)
        lengths = self.desk.offer.lengths(self.spec.stages[-1])
        with gr.Row():
            with gr.Column(scale=2):
                prompt = gr.Textbox(label="Prompt", max_lines=4, autofocus=True, max_length=PROMPT)
                gr.Examples([[text] for text in EXAMPLES], prompt, label="Examples")
                with gr.Row():
                    seed = gr.Textbox(label="Seed", placeholder="a new one")
                    size = gr.Dropdown(sizes, value=sizes[-1], label="Size")
                    seconds = gr.Dropdown(lengths, value=lengths[-1], label="Seconds")
                with gr.Accordion("Settings of every stage", open=False):
                    negative = gr.Textbox(label="Negative prompt", max_length=PROMPT)
                    settings = [field for stage in self.spec.stages for field in _fields(stage)]
                with gr.Row():
                    start = gr.Button("Make the video", variant="primary", elem_id="start")
                    stop = gr.Button("Cancel", elem_id="stop")
            with gr.Column(scale=3):
                status, screen = _screen()
        job = gr.State("")
        size.change(self.lengths, size, seconds)
        asked = [prompt, seed, size, seconds, negative, *settings]
        gr.on(
            [start.click, prompt.submit],
            self.make,
            asked,
            [job, status, screen],
            show_progress="hidden",
        )
        stop.click(self.cancel, job, None)
        return {"fields": asked, "outputs": [job, status, screen]}

    def _gallery_tab(self, tab: gr.Tab, tabs: gr.Tabs, again: dict[str, Any]) -> None:
        ids, chosen = gr.State([]), gr.State("")
        with gr.Row():
            with gr.Column(scale=2):
                pictures = gr.Gallery(
                    label="Videos", columns=3, allow_preview=False, object_fit="contain"
                )
                refresh = gr.Button("Refresh", size="sm")
            with gr.Column(scale=3):
                shown = gr.HTML("<p>Choose a video to see its settings and all of its stages.</p>")
                with gr.Row():
                    repeat = gr.Button("Again with another seed", variant="primary", visible=False)
                    remove = gr.Button("Delete", variant="stop", visible=False)
        gr.on([tab.select, refresh.click], self.gallery, None, [ids, pictures])
        buttons = [repeat, remove]
        pictures.select(self.choose, ids, [chosen, shown, *buttons])
        repeat.click(self.fill, chosen, again["fields"]).then(
            lambda: gr.Tabs(selected="make"), None, tabs
        ).then(self.make, again["fields"], again["outputs"], show_progress="hidden")
        remove.click(self.remove, chosen, [shown, *buttons]).then(
            self.gallery, None, [ids, pictures]
        )

    def _upscale_tab(self) -> None:
        names = [stage.name for stage in self.spec.stages if stage.kind != "base"]
        with gr.Row():
            with gr.Column(scale=2):
                upload = gr.File(label="Video", file_types=["video"], type="filepath")
                prompt = gr.Textbox(label="What it shows (may be empty)", max_length=PROMPT)
                stages = gr.CheckboxGroup(names, value=names[-1:], label="Stages, in order")
                with gr.Row():
                    start = gr.Button("Upscale", variant="primary")
                    stop = gr.Button("Cancel")
            with gr.Column(scale=3):
                status, screen = _screen()
        job = gr.State("")
        outputs = [job, status, screen]
        start.click(self.upscale, [upload, prompt, stages], outputs, show_progress="hidden")
        stop.click(self.cancel, job, None)

    def lengths(self, size: str) -> Any:
        legal = self.desk.offer.lengths(self.desk.offer.stage(size))
        return gr.Dropdown(legal, value=legal[-1])

    async def make(
        self,
        prompt: str,
        seed: str,
        size: str,
        seconds: str,
        negative: str,
        *settings: str | None,
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Queue a video and show it growing."""
        own = {}
        for i, stage in enumerate(self.spec.stages):
            steps, weight = settings[2 * i : 2 * i + 2]
            own[stage.name] = _given(steps=steps, guidance=weight)
        fields: dict[str, Any] = {"prompt": prompt or "", "size": size, "seconds": seconds}
        fields |= _given(seed=seed, negative_prompt=negative)
        fields["stages"] = {name: setting for name, setting in own.items() if setting}

        def submit() -> Job:
            return self.desk.submit(VideoRequest.model_validate(fields))

        async for state in self._queued(submit):
            yield state

    async def upscale(
        self, upload: str | None, prompt: str, stages: list[str]
    ) -> AsyncIterator[tuple[str, str, str]]:
        """Queue an upscaling and show it."""
        if upload is None:
            yield "", said("Choose a video first.", wrong=True), EMPTY
            return
        names = [stage.name for stage in self.spec.stages if stage.name in stages]

        def submit() -> Job:
            with open(upload, "rb") as file:
                return self.desk.submit_upload(UpscaleRequest(prompt=prompt, stages=names), file)

        async for state in self._queued(submit):
            yield state

    async def _queued(self, submit: Callable[[], Job]) -> AsyncIterator[tuple[str, str, str]]:
        try:
            job = await asyncio.to_thread(submit)
        except ValidationError as error:
            yield "", said(first_fault(error.errors())[0], wrong=True), EMPTY
        except Refused as error:
            yield "", said(f"{refused_in_words(error)}.", wrong=True), EMPTY
        except (ValueError, Full) as error:
            yield "", said(str(error), wrong=True), EMPTY
        else:
            async for status, screen in self._watched(job.id):
                yield job.id, status, screen

    async def _watched(self, id: str) -> AsyncIterator[tuple[str, str]]:
        """The status and the picture of a job, until it is over."""
        seen = None
        while not self.desk.stopping.is_set():
            job = self.desk.jobs.get(id)
            if job is None:
                yield said("This video was deleted.", wrong=True), EMPTY
                return
            state = standing(video(self.desk, job)), self._picture(job)
            if state != seen:
                seen = state
                yield state
            if job.over:
                return
            await asyncio.sleep(LOOK)

    def _picture(self, job: Job) -> str:
        """The video as it is now: a guess of the running stage, or what is finished."""
        live = self.desk.live.get(job.id)
        if job.status == "in_progress" and live is not None and live.preview:
            image = base64.b64encode(live.preview).decode()
            text = f"preview of stage {live.stage}"
            return f'<img alt="{text}" src="data:image/webp;base64,{image}">'
        if job.status == "completed":
            return self._player(job, job.stage or "")
        return EMPTY

    def _player(self, job: Job, stage: str) -> str:
        path = self.desk.jobs.folder(job.id).resolve() / f"{stage}.mp4"
        return player(path, self.spec.stage(stage), job.request["prompt"])

    def _caption(self, facts: Video, stage: str) -> str:
        """A stage by name, and by its format where that is what it makes."""
        return f"{stage}, {self.spec.stage(stage).output}" if facts.kind == "generate" else stage

    def cancel(self, id: str) -> None:
        job = self.desk.jobs.get(id)
        if job is not None and not job.over:
            self.desk.cancel(job)

    def gallery(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Ids, and pictures with captions, of the newest finished videos."""
        found = self.desk.jobs.page(after=None, limit=SHOWN)
        done = [job for job in found if job.status == "completed"]
        pictures = [
            (str(self.desk.jobs.folder(job.id) / "thumbnail.webp"), job.request["prompt"])
            for job in done
        ]
        return [job.id for job in done], pictures

    def choose(self, ids: list[str], event: gr.SelectData) -> tuple[str, str, Any, Any]:
        """The stages of a video side by side, and its settings."""
        job = self.desk.jobs.get(ids[event.index])
        if job is None:
            return "", "<p>This video is gone.</p>", gr.Button(visible=False), gr.Button()
        facts = video(self.desk, job)
        figures = [
            f"<figure>{self._player(job, name)}<figcaption>{self._caption(facts, name)}"
            "</figcaption></figure>"
            for name in facts.stages
        ]
        page = f'{table(facts)}<div class="screen stages">{"".join(figures)}</div>'
        again = gr.Button(visible=facts.kind == "generate")
        return job.id, page, again, gr.Button(visible=True)

    def fill(self, id: str) -> list[Any]:
        """The fields of a job, without its seed."""
        job = self.desk.jobs.get(id)
        if job is None:
            raise gr.Error("this video is gone")
        request = VideoRequest(**job.request)
        facts = video(self.desk, job)
        own = [request.setting(stage) for stage in self.spec.stages]
        settings = [value for setting in own for value in (setting.steps, setting.guidance)]
        shown = ["" if value is None else str(value) for value in settings]
        return [facts.prompt, "", facts.size, facts.seconds, request.negative_prompt, *shown]

    def remove(self, id: str) -> tuple[str, Any, Any]:
        job = self.desk.jobs.get(id)
        if job is not None:
            self.desk.delete(job)
        hidden = gr.Button(visible=False)
        return "<p>Deleted.</p>", hidden, hidden


def _screen() -> tuple[gr.HTML, gr.HTML]:
    return gr.HTML(elem_id="status"), gr.HTML(EMPTY, elem_classes="screen")


def _fields(stage: StageSpec) -> list[gr.Textbox]:
    """Steps and guidance of one stage; the guidance of one that is not guided cannot be set."""
    sampler = stage.sampler
    with gr.Row():
        steps = gr.Textbox(label=f"{stage.name}: steps", placeholder=str(sampler.num_steps))
        weight = gr.Textbox(
            label=f"{stage.name}: guidance",
            placeholder=f"{sampler.guidance.weight:g}",
            visible=sampler.guidance.on,
        )
    return [steps, weight]


def _given(**fields: str | None) -> dict[str, str]:
    """What was filled in."""
    return {name: value.strip() for name, value in fields.items() if value and value.strip()}
