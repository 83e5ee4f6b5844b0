"""In a process of its own: how memory is kept holds for all of it."""

import json
import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, torch
from imagen_video.memory import keep_freed_memory, return_freed_memory

def faults():
    for i in range(48):
        if i == 24:  # by then all pieces are there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

found = {"cleared": faults()}
keep_freed_memory()
found |= {"reused": faults(), "kept": resident()}
return_freed_memory()
print(json.dumps(found | {"left": resident()}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again_and_can_be_returned():
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    found = json.loads(told.stdout)
    assert found["reused"] < found["cleared"] / 8
    assert found["kept"] - found["left"] > 2**26 * 0.9


def peak_of(frames: int) -> int:
    """Bytes that mini's last stage adds to weights and conditioning, for so many frames of
    96x160."""
    words = ["bench/scaling.py", "--stages", "ssr3", "--point", str(frames), "0.125"]
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, *words], capture_output=True, check=True, env=one)
    return json.loads(told.stdout)["bytes"]


def test_a_frame_more_costs_nothing():
    """A step in windows takes the same memory for any number of frames, noise included (of
    768x1280 a frame of state would be 11.8 MB)."""
    state = 3 * 96 * 160 * 4
    assert (peak_of(640) - peak_of(128)) / 512 < 0.25 * state  # the whole clip in one call: 6
