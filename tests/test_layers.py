"""A module imports from its own folder or a lower layer; the table is the documentation."""

import ast
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "imagen_video"
LAYERS = (
    {"shapes", "files", "memory", "distributed", "video", "pictures", "pyav", "motion", "presets"}
    | {"spec", "spec_unet", "spec_json", "index", "hub", "watermark", "signer", "provenance"},
    {"diffusion", "unet", "text"},
    {"lowres", "weights", "stage", "sampling", "pipeline", "cascade", "info", "card", "adapters"}
    | {"safety"},
    {"data", "training", "metrics"},
    {"evaluation", "web", "doctor"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STRANGERS = {"diffusion": set(), "unet": set(), "text": set()}
WORKSHOPS = {"data": set(), "metrics": set(), "training": {"data"}}
# Made when a batch or a run begins, carried by Conditioning, read in temporal.py and lowres.py.
IS_VIDEO = {
    "data/mix.py",
    "lowres.py",
    "stage.py",
    "training/ahead.py",
    "training/watch.py",
    "unet/inputs.py",
    "unet/temporal.py",
    "unet/unet.py",
}
MODULES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """First names below imagen_video of everything a file imports, wherever it does."""
    return imported(path.read_text()) - {"__version__"}


def imported(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("imagen_video.")}
    return found


def test_every_form_of_import_is_seen():
    source = "import imagen_video.a.b\nfrom imagen_video import c\nfrom imagen_video.d import e"
    assert imported(source) == {"a", "c", "d"}


def test_imports_go_down():
    for path in MODULES:
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if own.startswith("__"):
            continue
        for name in imports(path) - {own}:
            allowed = LEVEL[name] < LEVEL[own]
            same = LEVEL[name] == LEVEL[own] and name in {**STRANGERS, **WORKSHOPS}.get(own, {name})
            assert allowed or same, f"{path.relative_to(SOURCE)} imports {name}"


def files_with(pattern: str) -> set[str]:
    return {
        str(path.relative_to(SOURCE)) for path in MODULES if re.search(pattern, path.read_text())
    }


def test_one_home_for_each_concern():
    """alpha and sigma, the mixing of frames, and distribution each have their place."""
    assert files_with(r"sigmoid\(.*\)\.sqrt\(\)") == {"diffusion/schedule.py"}
    assert files_with(r"torch\.distributed") <= {"distributed.py", "training/checkpoint.py"}
    assert files_with(r"is_video\b") <= IS_VIDEO


def test_no_pickle():
    assert not files_with(r"torch\.load|import pickle|torch\.save\(")


HEAVY = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import imagen_video, imagen_video.training.trainer, imagen_video.training.job
import imagen_video.video, imagen_video.text.encoder, imagen_video.text.cache
names = {name.split(".")[0] for name in sys.modules}
heavy = {"PIL", "av", "resvg_py", "transformers", "tokenizers", "huggingface_hub", "matplotlib"}
assert not names & {*heavy, "tyro"}, names
"""


def test_training_imports_little_and_no_network():
    subprocess.run([sys.executable, "-c", HEAVY], check=True)
