"""Pieces of the page's HTML; whatever came from outside is escaped."""

from html import escape
from pathlib import Path

from imagen_video.spec import StageSpec
from imagen_video.web.views import Video

CSS = """
.screen img, .screen video { width: 100%; max-height: 70vh; object-fit: contain; display: block;
  background: #8882; border-radius: 8px; image-rendering: pixelated; }
.screen video.large { image-rendering: auto; }
.stages { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr));
  gap: 12px; }
.stages figure { margin: 0; } .stages figcaption { font-size: 0.85em; padding: 4px 2px; }
.facts td:first-child { white-space: nowrap; }
.facts td { padding: 1px 10px 1px 0; vertical-align: top; overflow-wrap: anywhere; }
"""
EMPTY = "<p>The video grows here: the first stage is small, the last one is the video.</p>"


def player(path: Path, stage: StageSpec, prompt: str) -> str:
    """A video of a stage that plays by itself, over and over."""
    large = ' class="large"' if max(stage.output.size) > 400 else ""
    label = escape(f"{stage.name}: {prompt}", quote=True)
    return (
        f'<video{large} autoplay controls loop muted playsinline aria-label="{label}"'
        f' src="gradio_api/file={escape(str(path), quote=True)}"></video>'
    )


def said(words: str, *, wrong: bool = False) -> str:
    role = "alert" if wrong else "status"
    return f'<p role="{role}">{escape(words)}</p>'


def standing(facts: Video) -> str:
    """How a job stands, in a sentence and a bar."""
    if facts.status == "queued":
        before = facts.queued_before or 0
        return said(f"Waiting: {before} before it." if before else "Waiting: the next to be made.")
    if facts.error is not None:
        names = {"cancelled": "Cancelled", "server_error": "Failed"}
        name = names.get(facts.error.code, f"Withheld ({facts.error.code})")
        return said(f"{name}: {facts.error.message}.", wrong=True)
    if facts.status == "completed":
        return said(f"Done: {facts.size}, {facts.seconds} s, seed {facts.seed}.")
    bar = f'<progress max="100" value="{facts.progress}" style="width:100%"></progress>'
    words = f"{facts.progress} %"
    if facts.stage:
        words += f", stage {facts.stage}, step {facts.step} of {facts.num_steps}"
    if facts.eta_seconds is not None:
        words += f", about {facts.eta_seconds:.0f} s left"
    return said(words) + bar


def table(facts: Video) -> str:
    """The settings of a job as a table."""
    rows = {
        "prompt": facts.prompt,
        "seed": facts.seed,
        "size": facts.size,
        "seconds": facts.seconds,
    }
    rows |= {name: value for name, value in facts.settings.items() if name not in rows and value}
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f'<table class="facts">{cells}</table>'
