"""What the tables of docs/results.md are counted by: paired rows, and seconds by their part."""

import time
from dataclasses import replace

import pytest
import torch
from cascade import REST, Ledger  # pyright: ignore
from distilled import GUIDANCES, LONG, sampled
from paired import Paired, Row

from imagen_video.cascade import Cascade
from imagen_video.diffusion.guidance import guidance_weights
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.stage import sampling_schedule

COUNT, SEEDS = 50, 4


def normal(*size: int, seed: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def paired() -> Paired:
    target = Target(Moments.of(normal(500, 3, seed=0)))
    return Paired(target, target, COUNT, SEEDS)


def row(fits: torch.Tensor) -> Row:
    videos = COUNT * SEEDS
    frames, clips = normal(videos, 2, 3, seed=1), normal(videos, 3, seed=2)
    return Row(fits, 100.0 * (fits > 0), frames, clips, seconds=1.0, flops=2e12)


def test_a_row_is_no_different_from_itself(paired):
    one = row(normal(COUNT * SEEDS, seed=3))
    name, *cells = paired.line("a", one, one)
    assert name == "a" and cells[-2:] == ["1.0", "2.00"]
    assert all("(+0 ± 0" in cell for cell in cells[:4])


def test_differences_are_those_of_the_same_videos(paired):
    """Prompts differ by far more than what the rows do."""
    fits = 100 * normal(COUNT * SEEDS, seed=3)
    better, worse = row(fits + 1), row(fits)
    assert "(+1 ± " in paired.line("a", better, worse)[1]
    half = float(paired.line("a", better, worse)[1].split("± ")[1].rstrip(")"))
    assert half < 1e-6
    further = replace(worse, clips=worse.clips + 1)
    cell = paired.line("a", further, worse)[4]
    near, far = (paired.clips.of(one.clips) for one in (worse, further))
    assert f"{100 * (far / near - 1):+.0f} %" in cell


def test_prompts_are_drawn_with_all_of_their_seeds(paired):
    easy = normal(COUNT, seed=3).repeat(SEEDS)
    cell = paired.line("a", row(easy), row(torch.zeros(COUNT * SEEDS)))[1]
    half = float(cell.split("± ")[1].rstrip(")"))
    assert half == pytest.approx(1.96 * easy[:COUNT].std().item() / COUNT**0.5, rel=0.15)


def test_rows_of_table_1_are_guided_alike():
    base = Cascade.from_pretrained("mini").stages[0]
    assert base.unet.spec.side is not None
    for guidance in GUIDANCES:
        means = []
        for steps in (LONG["base"], base.spec.sampler.num_steps):
            spec = sampled(base, guidance, steps).spec
            assert spec.sampler.num_steps == steps
            weights = guidance_weights(spec.sampler.guidance, steps, sampling_schedule(spec))
            first = weights.index(max(weights))
            last = steps - weights[::-1].index(max(weights))
            means.append(sum(weights[first:last]) / len(weights[first:last]))
            assert (0 in weights[first:last]) == (guidance == "oscillating")
        assert means[0] == pytest.approx(means[1], rel=0.1)


def test_seconds_count_for_the_innermost_part_alone():
    class Work:
        def outer(self):
            time.sleep(0.05)
            self.inner()

        def inner(self):
            time.sleep(0.1)

    ledger = Ledger()
    with ledger.timing(Work, "outer", "a"), ledger.timing(Work, "inner", "b"):
        Work().outer()
    found = ledger.taken(1.0)
    assert 0.05 <= found["a"] < 0.09 and found["b"] >= 0.1
    assert sum(found.values()) == pytest.approx(1.0) and REST in found
    assert ledger.taken(0.5) == {REST: 0.5}
