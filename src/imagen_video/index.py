"""A cascade's folder: model_index.json names its stages, each in a folder of its own; and where
such a folder is: in the package, here, or on the Hugging Face hub."""

import json
from dataclasses import asdict
from pathlib import Path

from imagen_video import __version__, hub
from imagen_video.files import replacing
from imagen_video.spec import CascadeSpec, StageSpec, TextSpec
from imagen_video.spec_json import from_json

INDEX, SPEC, MODEL = "model_index.json", "stage.json", "model.safetensors"
CLASS, STAGE = "Cascade", ["imagen_video", "Stage"]
FITS = "give 'mini', a folder of save_pretrained, or org/name of the hub"


def located(name: str | Path, *, revision: str | None = None, weights: bool = False) -> Path:
    """The folder of "mini", which comes with the package; a folder itself; or that of org/name of
    the hub in its cache, fetched as far as needed: specs, and weights if asked for."""
    name = str(name)
    here = Path(__file__).parent / name if name == "mini" else Path(name)
    if here.is_dir() or not hub.is_name(name):
        if revision is not None:
            raise ValueError(f"{name!r} has no revisions, only org/name of the hub does")
        return here
    folder = hub.fetched(name, [INDEX, f"*/{SPEC}"], revision=revision)
    if not weights:
        return folder
    # Only now is it known which weights are a cascade's. The folder is named by its commit.
    files = [f"{stage.name}/{MODEL}" for stage in read_index(folder).stages]
    return hub.fetched(name, files, revision=folder.name)


def read_index(folder: Path) -> CascadeSpec:
    """The cascade that a folder holds. Raises ValueError where there is none."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"no {INDEX} in {folder}: {FITS}")
    try:
        index = json.loads(path.read_text())
        if index["_class_name"] != CLASS:
            raise ValueError(f"{path} is of a {index['_class_name']}, not of a cascade: {FITS}")
        name, text = index["_name"], from_json(TextSpec, json.dumps(index["_text"]))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no index of a cascade ({error!r}): {FITS}") from None
    stages = (load_spec(folder / key) for key, kind in index.items() if kind == STAGE)
    return CascadeSpec(name=name, stages=tuple(stages), text=text)


def write_index(folder: Path, spec: CascadeSpec) -> None:
    """Name the stages, in the order they run, as diffusers names a pipeline's components."""
    index = {
        "_class_name": CLASS,
        "_imagen_video_version": __version__,
        "_name": spec.name,
        "_text": asdict(spec.text),
        **{stage.name: STAGE for stage in spec.stages},
    }
    with replacing(folder / INDEX) as path:
        path.write_text(json.dumps(index, indent=2) + "\n")


def load_spec(folder: Path) -> StageSpec:
    """The spec of a saved stage. Raises ValueError where there is none."""
    path = folder / SPEC
    if not path.is_file():
        raise ValueError(f"no {SPEC} in {folder}: give a folder that save_stage wrote")
    return from_json(StageSpec, path.read_text())
