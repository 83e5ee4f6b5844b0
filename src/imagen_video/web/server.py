"""The application: the API, and the page if it is wanted."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen_video import __version__
from imagen_video.web.api import add_routes
from imagen_video.web.bodies import add_errors, answer, is_key
from imagen_video.web.desk import Desk

# Bytes of a body that carries no video.
WORDS_ONLY = 2**20
UPLOADS = "/v1/videos/upscale"


class TooLarge(Exception):
    """A body went past its bound."""


class BoundedBody:
    """Answers 413 to a body of more than `most` bytes (uploads) or WORDS_ONLY (other routes of the
    API), by what it says of itself and by what comes."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        most = self.most if scope["path"] == UPLOADS else WORDS_ONLY
        came, begun = 0, False

        async def bounded() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        said = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if said.isdigit() and int(said) > most:
                raise TooLarge
            await self.app(scope, bounded, watched)
        except TooLarge:
            if not begun:
                error = answer(
                    413, f"the body may have {most} bytes", headers={"Connection": "close"}
                )
                await error(scope, receive, send)


def application(desk: Desk, *, keys: Sequence[str] = ()) -> FastAPI:
    """The API over one desk, which works while the application runs."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.stop()

    app = FastAPI(
        title="imagen-video",
        version=__version__,
        description="Videos from text, in the shape of OpenAI's videos endpoint.",
        lifespan=life,
    )
    app.add_middleware(BoundedBody, most=desk.limits.body_bytes)
    add_errors(app)
    add_routes(app, desk, keys)
    return app


def with_page(app: FastAPI, desk: Desk, keys: Sequence[str] = ()) -> FastAPI:
    """The application with the page at /; with keys, one of them is the password of any name."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Takes seconds.
    import gradio
    from gradio import themes

    from imagen_video.web.markup import CSS
    from imagen_video.web.page import Page

    gradio.set_static_paths([desk.jobs.videos])
    font = ("system-ui", "sans-serif")
    return gradio.mount_gradio_app(
        app,
        Page(desk).blocks(),
        path="/",
        theme=themes.Soft(font=font, font_mono=("ui-monospace", "monospace")),
        css=CSS,
        auth=(lambda _, password: is_key(password, keys)) if keys else None,
        auth_message="Any name, and a key of this server as the password.",
        max_file_size=desk.limits.body_bytes,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
    )
