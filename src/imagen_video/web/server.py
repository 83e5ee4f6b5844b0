"""The application of the API; `page.mount` adds the page."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imagen_video import __version__
from imagen_video.web.api import add_routes
from imagen_video.web.bodies import add_errors, answer
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
