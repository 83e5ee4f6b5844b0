"""Planning: what is foretold of memory and FLOPs is what training really takes."""

from argparse import Namespace
from copy import copy
from dataclasses import replace

import pytest
from training_step import measure

from imagen_video import presets
from imagen_video.distributed import Ranks
from imagen_video.stage import build_unet
from imagen_video.training.checkpoint import prime
from imagen_video.training.dry import optimizer_bytes
from imagen_video.training.engine import make_optimizer
from imagen_video.training.plan import GIB, USABLE, Hardware, Needs, Plan, as_tables, plan

TINY = presets.tiny()
DEEP = replace(TINY.stages[0], unet=replace(TINY.stages[0].unet, widths=(64, 128), blocks=(1, 3)))


@pytest.mark.parametrize("spec", [TINY.stages[6], DEEP], ids=["ssr3", "deep"])
@pytest.mark.parametrize(
    ("recompute", "accumulate"), [(False, 1), (True, 2)], ids=["kept", "recomputed"]
)
def test_memory_and_flops_of_a_real_step_are_foretold(spec, recompute, accumulate, tmp_path):
    wanted = Namespace(rows=3, recompute=recompute, compiled=False, shards=1, accumulate=accumulate)
    row = measure(spec, wanted, Ranks(), tmp_path)
    assert row.foretold_bytes == pytest.approx(row.peak_bytes, rel=0.02)
    assert row.foretold_flops == pytest.approx(row.flops, rel=1e-4)
    assert (row.flops > row.model_flops) == recompute


@pytest.fixture(scope="module")
def deep() -> Needs:
    """What it counted once it keeps."""
    return Needs(DEEP, 32)


def test_a_seventh_of_the_shards_keeps_a_seventh_of_what_is_kept(deep):
    whole, shard = (deep.bytes_on_one(1, gpus=7, shards=n, recompute=True) for n in (1, 7))
    kept = deep.weights + deep.optimizer + deep.ema
    assert 0 <= whole - shard - 6 * kept // 7 <= deep.gradients


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_optimizers_keep_what_is_foretold(name):
    spec = replace(DEEP, train=replace(DEEP.train, optimizer=name))
    optimizer = make_optimizer(spec.train, build_unet(spec))
    prime(optimizer)
    kept = [value for state in optimizer.state.values() for value in state.values()]
    real = sum(value.nbytes for value in kept if value.numel() > 1)
    assert optimizer_bytes(spec) == pytest.approx(real, rel=1e-3)


def room_for(needs: Needs, **way) -> Hardware:
    """Two GPUs on which this fits, and hardly more."""
    size = needs.bytes_on_one(gpus=2, **way) * 1.0001 / (USABLE * GIB)
    return Hardware(gpus=2, gpu_memory=size)


def test_the_cheapest_way_that_fits_is_chosen():
    last = TINY.stages[6]  # few weights, many pixels
    needs = Needs(replace(last, train=replace(last.train, clips=4, image_packs=0)), 32)

    def way(found: Plan) -> tuple:
        return found.shards, found.recompute, found.rows, found.accumulate, found.fits

    large = Hardware(gpus=2, gpu_memory=80.0)
    assert way(plan(needs, large)) == (1, False, 2, 1, True)
    tight = room_for(needs, rows=1, shards=1, recompute=False, accumulate=2)
    assert way(plan(needs, tight)) == (1, False, 1, 2, True)
    tight = room_for(needs, rows=1, shards=2, recompute=False, accumulate=2)
    assert way(plan(needs, tight)) == (2, False, 1, 2, True)
    tight = room_for(needs, rows=1, shards=2, recompute=True, accumulate=2)
    assert way(plan(needs, tight)) == (2, True, 1, 2, True)
    for wrong in (float("nan"), float("inf"), 0.0):
        with pytest.raises(ValueError, match="gpu_memory must be above 0"):
            Hardware(gpu_memory=wrong)
    nothing = Hardware(gpus=2, gpu_memory=1e-6)
    assert way(plan(needs, nothing)) == (2, True, 1, 2, False)
    assert "needs" in as_tables([plan(needs, nothing)], nothing, "tiny").splitlines()[-1]


@pytest.mark.parametrize(
    ("rows", "most", "used"), [(5, 8, 5), (3, 8, 3), (128, 64, 64), (24, 12, 8), (7, 2, 1)]
)
def test_as_many_gpus_are_used_as_share_a_batch(deep, rows, most, used):
    needs = copy(deep)
    needs.spec = replace(DEEP, train=replace(DEEP.train, clips=rows, image_packs=0))
    assert plan(needs, Hardware(gpus=most)).hardware.gpus == used


def test_time_is_work_over_rate(deep):
    found = plan(deep, Hardware(gpus=3, tflops=1.0, utilisation=0.5))
    work = deep.flops(recompute=False) * 3 * DEEP.train.steps
    assert found.days * 86_400 == pytest.approx(work / 1.5e12)
    assert found.gpu_hours == pytest.approx(found.days * 72)


BASE_ALONE = """
from dataclasses import replace
from imagen_video import presets

def base():
    whole = presets.tiny()
    return replace(whole, stages=whole.stages[:1])
"""


def test_the_command_line_prints_tables_and_commands(inside, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(BASE_ALONE)
    done = inside("plan", f"{file}:base", "--gpus", 3)
    assert done.returncode == 0 and "GPU-hours" in done.stdout
    commands = [line for line in done.stdout.splitlines() if line.startswith("torchrun ")]
    assert len(commands) == 1 and "--nproc-per-node=3" in commands[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--gpus", "0"], "gpus must be above 0, got 0"),
        (["--gpu-memory", "0"], "gpu_memory must be above 0, got 0"),
        (["--utilisation", "1.5"], "utilisation must lie in (0, 1], got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(words, reason, inside):
    refused = inside("plan", "tiny", *words)
    assert refused.returncode == 2 and reason in refused.stderr
