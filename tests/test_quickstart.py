"""The notebook does what it shows: its cells run without Jupyter, beside their outputs."""

import ast
import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from forked import fork  # pyright: ignore
from PIL import Image

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"


def value_of(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; what its last line is worth, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def run_cells(folder: str) -> None:
    os.chdir(folder)
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if "outputs" in cell]
    for cell in cells:
        value = value_of("".join(cell["source"]), names)
        shown = [out["data"] for out in cell["outputs"] if "data" in out]
        assert len(shown) == 1
        if "image/png" in shown[0]:
            picture = Image.open(io.BytesIO(base64.b64decode(shown[0]["image/png"])))
            before, now = (np.asarray(image, np.float32) for image in (picture, value))
            assert abs(before - now).mean() < 10  # other CPUs round otherwise
        else:
            assert ast.literal_eval("".join(shown[0]["text/plain"])) == value


def test_the_quick_start_shows_what_it_gives(tmp_path):
    (run,) = fork(run_cells, str(tmp_path), said=tmp_path / "said")
    run.join(300)
    assert run.exitcode == 0, (tmp_path / "said.err").read_text()
    assert "ssr1: (32, 3, 48, 80) at 6 fps" in (tmp_path / "said.out").read_text()
    assert (tmp_path / "duck.mp4").is_file()
