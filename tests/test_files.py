import signal
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from imagen_video.files import alone_in, replacing


def test_a_file_is_as_readable_as_any_other_whoever_wrote_it(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "weights") as path:
        save_file({"w": torch.zeros(1)}, path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "weights")}
    assert len(modes) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as path:
        path.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_name_may_be_as_long_as_the_system_takes_it(tmp_path):
    path = tmp_path / (62 * "\U0001f986" + ".txt")  # 252 bytes
    with replacing(path) as part:
        part.write_text("a duck")
    assert path.read_text() == "a duck"
    told = pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/none")
    with told, replacing(tmp_path / "none" / "a"):
        pass


def test_a_process_killed_while_it_writes_leaves_the_old_file_whole(tmp_path):
    (tmp_path / "a").write_text("old")
    program = """
import os, signal, sys
from imagen_video.files import replacing
with replacing(sys.argv[1]) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")])
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "a"]
    assert len(left) == 1
    assert left[0].endswith(".part")


HOLD = """
import sys, time
from pathlib import Path
from imagen_video.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process works in"), alone_in(tmp_path):
            pass
        other.kill()
        other.wait()
        with alone_in(tmp_path):
            pass
