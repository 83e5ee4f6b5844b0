"""The doctor looks at this installation, whole and with things taken from it."""

import sys
from importlib.util import find_spec

import pytest
import torch
from forked import imagen_video as run  # pyright: ignore

from imagen_video import doctor
from imagen_video.cli.doctor import Doctor, run_doctor
from imagen_video.files import cache_root


def test_an_installation_that_passes_tests_can_make_videos():
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    parts = {line[8:22].strip(): line for line in lines}
    assert all(parts[part].startswith("ok ") for part, *_ in doctor.CORE)
    assert "a step of the base took" in parts["cascade"] and str(cache_root()) in parts["cache"]
    for extra, package in {"lora": "peft", "words": "rapidocr_onnxruntime"}.items():
        assert (f"'imagen-video[{extra}]'" in done.stdout) == (find_spec(package) is None)
    assert lines[-1] == "videos can be made"


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """No PyAV, no cache that can be written, no program on the path, more threads than cores."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "av", None)
    # The rest of the core is whole, and takes its time above.
    looked = [look for look in doctor.CORE if look[0] in ("python", "video files", "cache")]
    monkeypatch.setattr(doctor, "CORE", looked)
    threads = torch.get_num_threads()
    torch.set_num_threads(200)
    yield
    torch.set_num_threads(threads)


def test_what_is_broken_is_named_and_the_rest_looked_at(broken, capsys):
    with pytest.raises(SystemExit) as end:
        run_doctor(Doctor())
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    states = {line[8:22].strip(): line[:8].strip() for line in lines}
    assert (states["python"], states["video files"], states["cache"]) == ("ok", "missing", "broken")
    assert (states["cores"], states["chromium"]) == ("broken", "missing")
    assert [line for line in lines if "set IMAGEN_VIDEO_CACHE to a folder" in line]
    assert lines[-1].startswith("videos cannot be made")
