"""Videos of several prompts at once: the same videos, and nothing held up or left behind."""

import threading
from collections.abc import Iterator

import pytest
import torch

from imagen_video.cascade import Cascade
from imagen_video.diffusion.sampler import SamplerState
from imagen_video.pipeline import Part, shared_out, side_by_side
from imagen_video.sampling import Low, Progress, Run, SampleSpec
from imagen_video.text.encoder import TextEmbedding

PROMPTS = ["a cat", "a dog", "a cat"]
TEXT = TextEmbedding(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
RUNS = [Run(i, 0, SampleSpec(), TEXT) for i in range(4)]
FRAME = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
PATIENCE = 30


def progress(run: Run, stage: str, step: int = 0, steps: int = 1) -> Progress:
    video = FRAME + run.prompt if step + 1 == steps else None
    return Progress(run.prompt, stage, step, steps, 24.0, SamplerState(step, steps, None), video)


def test_lanes_make_the_videos_of_one_after_the_other(tiny):
    several = Cascade(tiny.spec, tiny.stages, tiny.encoder, lanes=(0, 0, 1, 2, 2, 2, 2))
    alone, together = tiny(PROMPTS, until="ssr2"), several(PROMPTS, until="ssr2")
    assert list(together.stages) == list(alone.stages)
    for name, videos in alone.stages.items():
        assert torch.equal(together.stages[name], videos)


def test_a_call_may_begin_and_end_in_any_lane(tiny):
    several = Cascade(tiny.spec, tiny.stages, tiny.encoder, lanes=(0, 0, 1, 1, 2, 2, 2))
    low = tiny("a cat", until="tsr1").frames[0]
    for until in ("ssr1", "tsr2"):
        wanted = SampleSpec(start="ssr1", until=until)
        made = [
            {(p.prompt, p.stage): p.video for p in c.stream(PROMPTS, wanted, low=low) if p.step}
            for c in (tiny, several)
        ]
        assert made[0].keys() == made[1].keys()
        assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_a_stage_works_beside_the_one_before_it():
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def part(mine: int) -> Part:
        def steps(run: Run, low: Low | None) -> Iterator[Progress]:
            if 0 < run.prompt + mine < len(RUNS):  # run i's second part meets run i + 1's first
                meeting.wait()
            yield progress(run, str(mine))

        return steps

    seen = [(p.stage, p.prompt) for p in side_by_side([part(0), part(1)], RUNS, None)]
    for stage in "01":
        assert [prompt for name, prompt in seen if name == stage] == [0, 1, 2, 3]


def test_videos_are_handed_on_and_do_not_pile_up():
    begun, most = [0, 0], 0

    def first(run: Run, low: Low | None) -> Iterator[Progress]:
        begun[0] += 1
        yield progress(run, "first")

    def second(run: Run, low: Low | None) -> Iterator[Progress]:
        nonlocal most
        begun[1] += 1
        assert low is not None
        assert torch.equal(low.frames, FRAME + run.prompt)
        for step in range(20):
            most = max(most, begun[0] - begun[1])
            yield progress(run, "second", step, 20)

    assert len(list(side_by_side([first, second], RUNS, None))) == 4 + 80
    assert most <= 2  # one waits, one is made


def test_a_part_goes_on_when_its_progress_was_taken():
    gone_on = threading.Event()

    def part(run: Run, low: Low | None) -> Iterator[Progress]:
        yield progress(run, "only", 0, 2)
        gone_on.set()
        yield progress(run, "only", 1, 2)

    steps = side_by_side([part, part], RUNS[:1], None)
    next(steps)
    assert not gone_on.wait(0.2)
    next(steps)
    assert gone_on.is_set()
    steps.close()  # pyright: ignore


def test_closing_ends_what_is_begun_where_it_was_begun():
    ended: list[str] = []

    def part(run: Run, low: Low | None) -> Iterator[Progress]:
        name = threading.current_thread().name
        try:
            while True:
                yield progress(run, "endless", 0, 2)
        finally:
            ended.append("here" if threading.current_thread().name == name else "elsewhere")

    before = threading.active_count()
    steps = side_by_side([part, part], RUNS, None)
    next(steps)
    steps.close()  # pyright: ignore
    assert ended == ["here"]
    assert threading.active_count() == before


def test_what_goes_wrong_in_a_part_is_told():
    def broken(run: Run, low: Low | None) -> Iterator[Progress]:
        raise ValueError("no room")
        yield progress(run, "never")

    with pytest.raises(ValueError, match="no room"):
        list(side_by_side([broken, broken], RUNS, None))


@pytest.mark.parametrize(
    ("costs", "lanes", "found"),
    [
        ([1, 1, 1, 1], 1, [0, 0, 0, 0]),
        ([1, 1, 1, 1], 2, [0, 0, 1, 1]),
        ([1, 1, 1, 9], 2, [0, 0, 0, 1]),
        ([9, 1, 1, 9], 3, [0, 1, 1, 2]),
        ([5, 1], 2, [0, 1]),
    ],
)
def test_stages_are_shared_out_evenly(costs, lanes, found):
    assert shared_out(costs, lanes) == found


def test_more_devices_than_stages_are_refused():
    with pytest.raises(ValueError, match="2 stages cannot be shared by 3 devices"):
        shared_out([1, 1], 3)


def test_devices_share_a_cascade(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    cascade = Cascade.from_pretrained(tmp_path, device=["cpu", "cpu"], dtype=torch.float32)
    assert sorted(set(cascade.lanes)) == [0, 1]
    assert cascade.with_sampler("base", tiny.spec.stages[0].sampler).lanes == cascade.lanes
    with pytest.raises(ValueError, match="no device 'pluto' here"):
        Cascade.from_pretrained(tmp_path, device="pluto")
