"""The Containerfile as far as it can be held without a container engine: its words and files."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    """Word and rest of every instruction, continued lines joined."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_what_is_copied_is_here_and_not_ignored():
    kept = (ROOT / ".dockerignore").read_text().split()
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {"src", "pyproject.toml", "constraints.txt"} <= copied
    assert all((ROOT / source).exists() and f"!{source}" in kept for source in copied)
    pyproject = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"(README\.md|LICENSE|NOTICE)"', pyproject)
    assert set(named) <= copied  # the package is built from what is copied


def test_packages_are_pinned_and_the_program_is_nobody_in_particular():
    told = instructions()
    pip = [part for word, rest in told if word == "RUN" for part in rest.split("&&")
           if "pip install" in part]  # fmt: skip
    assert len(pip) == 3 and all("-c constraints.txt" in part for part in pip)
    words = dict(told)  # the last of each, which is of the final stage
    assert words["USER"] not in ("root", "0")
    assert json.loads(words["ENTRYPOINT"]) == ["imagen-video"]
    assert json.loads(words["CMD"])[0] == "serve"
