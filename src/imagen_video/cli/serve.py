"""imagen-video serve: the web page and the jobs API."""

import math
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from imagen_video.cli.provenance import Provenance
from imagen_video.cli.safety import Safety

if TYPE_CHECKING:
    from fastapi import FastAPI

KEYS = "IMAGEN_VIDEO_API_KEYS"


@dataclass(kw_only=True)
class Serve(Safety, Provenance):
    """Serve a page and an HTTP API in the shape of OpenAI's videos endpoint, with a queue on disk.

    Ended in whatever way, the same command goes on with the jobs where they were.
    """

    model: str = "mini"
    """The cascade: mini, a folder of save_pretrained, or org/name of the Hugging Face hub."""
    host: str = "127.0.0.1"
    port: int = 7860
    api_key: tuple[str, ...] = ()
    """Keys that let a client in; better in $IMAGEN_VIDEO_API_KEYS, separated by commas."""
    device: tuple[str, ...] = ("cpu",)
    """cpu or cuda; each of several, such as cuda:0 cuda:1, makes a job of its own."""
    data: Path = Path("out/service")
    """Where the queue and the videos are kept."""
    queue: int = 100
    """Jobs that may wait."""
    keep_days: float = 30.0
    """Finished videos are removed after so many days."""
    disk_share: float = 0.5
    """The oldest go earlier where videos fill more than this share of the disk."""
    safe: bool = True
    """Refuse prompts and withhold videos by the safety filters."""
    log_prompts: bool = False
    """The log holds what was refused, not only why."""
    provenance: bool = True
    """Watermark every video and sign a C2PA manifest into it, which leaves the prompt out."""


def run_serve(options: Serve) -> None:
    try:
        import fastapi  # noqa: F401
        import gradio  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise ValueError(
            "serving needs more packages: pip install 'imagen-video[serve]'"
        ) from error
    from imagen_video.files import alone_in

    keys = [*options.api_key, *filter(None, map(str.strip, os.environ.get(KEYS, "").split(",")))]
    _check(options, keys)
    if not keys and options.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"anyone who reaches {options.host} may use this server: set ${KEYS}", file=sys.stderr
        )
    with alone_in(options.data):
        app = _application(options, keys)
        # What uvicorn leaves to do of a SIGTERM once all has ended well.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                """Streams of events end with the desk, before open connections are waited for."""
                app.state.desk.stopping.set()
                super().handle_exit(sig, frame)

        # Downloads get a little time.
        given = {"host": options.host, "port": options.port}
        Server(uvicorn.Config(app, **given, timeout_graceful_shutdown=5)).run()


def _check(options: Serve, keys: list[str]) -> None:
    """ValueError for what cannot be served with, before a model is loaded."""
    if options.queue < 1 or not 0 < options.keep_days < math.inf:
        raise ValueError(
            "queue and keep-days must be above 0 and finite, got "
            f"{options.queue} and {options.keep_days:g}"
        )
    if not 0 < options.disk_share <= 1:
        raise ValueError(f"disk-share must be in 0..1, got {options.disk_share:g}")
    if not 0 <= options.port <= 65535:
        raise ValueError(f"port must be in 0..65535, got {options.port}")
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise ValueError("keys must be plain ASCII: what else a header holds is read in many ways")
    if options.log_prompts and not options.safe:
        raise ValueError("--log-prompts is for the filters, which are off")


def _application(options: Serve, keys: list[str]) -> "FastAPI":
    import logging

    from imagen_video.cascade import Cascade
    from imagen_video.memory import keep_freed_memory
    from imagen_video.web.desk import Desk
    from imagen_video.web.jobs import Jobs
    from imagen_video.web.server import application, with_page
    from imagen_video.web.uploads import Limits

    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO)
    if not options.log_prompts:  # it quotes what is not read of a long prompt
        warnings.filterwarnings("ignore", message="the prompt has .* tokens")
    keep_freed_memory()
    cascades = [Cascade.from_pretrained(options.model, device=name) for name in options.device]
    limits = Limits(queue=options.queue, keep_days=options.keep_days, disk_share=options.disk_share)
    filters = options.filters(log_prompts=options.log_prompts)
    desk = Desk(cascades, Jobs(options.data), limits=limits, filters=filters, marks=options.marks())
    return with_page(application(desk, keys=keys), desk, keys)
