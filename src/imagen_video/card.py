"""What a cascade's page on the Hugging Face hub says: its README with YAML front matter."""

from pathlib import Path

from imagen_video.info import counted
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.stage import build_unet

TEMPLATE = """---
license: {license}
library_name: imagen-video
pipeline_tag: text-to-video
tags:
- text-to-video
- video-super-resolution
- imagen-video
- pixel-space-diffusion
---

# {name}

A text-to-video cascade of {count} diffusion models in pixel space, after Imagen Video (Ho et al.,
2022). A prompt becomes {output}; it is read by a
frozen {encoder}.

| stage | makes | parameters | steps | guidance |
|---|---|---|---|---|
{rows}

## Use

```python
from imagen_video.cascade import Cascade

cascade = Cascade.from_pretrained("{name}")
cascade("{prompt}", seed=1).save("video.mp4")
```

or `imagen-video generate "{prompt}" --model {name}`. The weights
are safetensors; nothing is unpickled and no code is fetched.

{about}
"""
PROMPT = "a duck moving left to right on a blue background"
ABOUT = """## Limits

It can make what its training clips showed and little else, with their biases.
`imagen-video evaluate {name}` measures it stage by stage."""


def model_card(
    name: str, spec: CascadeSpec, *, license: str = "apache-2.0", about: str | None = None
) -> str:
    """A README of facts about the stages and how to use them; `about` is Markdown on data, limits
    and intended use, which only who trained it knows."""
    last = spec.stages[-1].output
    return TEMPLATE.format(
        license=license,
        name=name,
        count=len(spec.stages),
        output=f"{last.frames} frames of {last.width}x{last.height} at {last.fps:g} a second",
        encoder=spec.text.name or "all-MiniLM-L6-v2",
        rows="\n".join(_row(stage) for stage in spec.stages),
        prompt=PROMPT,
        about=(about or ABOUT.format(name=name)).strip(),
    )


def check_shareable(spec: CascadeSpec) -> None:
    """ValueError where others would look for the text encoder in vain."""
    if Path(spec.text.name).is_dir() and spec.text.name:
        raise ValueError(
            f"the text encoder is a folder of this machine, {spec.text.name!r}: replace it in "
            "spec.text by the name that the same encoder has on the hub"
        )


def _row(stage: StageSpec) -> str:
    parameters = sum(p.numel() for p in build_unet(stage, device="meta").parameters())
    out, sampler = stage.output, stage.sampler
    size = f"{out.frames} frames of {out.width}x{out.height}"
    guidance = f"{sampler.guidance.weight:g}" if sampler.guidance.on else ""
    cells = (stage.name, size, counted(parameters), str(sampler.num_steps), guidance)
    return f"| {' | '.join(cells)} |"
