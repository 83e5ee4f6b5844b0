"""Steps that would spoil a network are skipped, undone, and seen."""

import json
import math
import resource
import time

import pytest
import torch
from tiny_trainer import Still, tiny_trainer  # pyright: ignore

from imagen_video import presets
from imagen_video.data.mix import Mix
from imagen_video.diffusion.objective import Loss
from imagen_video.distributed import Ranks
from imagen_video.training import guard as guards
from imagen_video.training.checkpoint import FACTS, best, latest
from imagen_video.training.guard import Guard, Verdict
from imagen_video.training.watch import Log, Watch, read_log


def test_only_the_usual_is_good():
    guard = Guard()
    assert guard.judge(1e9, 1e9) is Verdict.GOOD  # nothing is unusual at first
    for i in range(guards.USUAL):
        assert guard.judge(1.0 + i % 3, 0.1) is Verdict.GOOD
    for value in (math.nan, math.inf, 2 * guards.EXPLODED * 1.01):
        assert guard.judge(value, 0.1) is Verdict.SKIP
    for value in (math.nan, 0.1 * guards.EXPLODED * 1.01):
        assert guard.judge(1.0, value) is Verdict.SKIP
    assert guard.skipped == guard.in_a_row == 5
    assert guard.judge(2 * guards.EXPLODED, 0.1 * guards.EXPLODED) is Verdict.GOOD
    assert guard.in_a_row == 0
    again = Guard()
    again.restore(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()


def test_many_bad_steps_in_a_row_ask_for_the_last_checkpoint():
    guard = Guard()
    verdicts = [guard.judge(math.nan, 1.0) for _ in range(2 * guards.IN_A_ROW)]
    rolls = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.ROLL_BACK]
    assert rolls == [guards.IN_A_ROW - 1, 2 * guards.IN_A_ROW - 1]
    for _ in range(guards.USUAL - 1):
        guard.judge(1.0, 1.0)
    assert guard.rollbacks == 2
    guard.judge(1.0, 1.0)
    assert guard.rollbacks == 0


def test_a_spoiled_network_goes_back_and_the_data_goes_on(tiny, tmp_path):
    """Step 9 finds weights that are not finite; ten steps later they are those of step 8 again.
    When that happens again soon, they are those of the checkpoint before the last."""
    shown: list[int] = []

    class Spoiling(Mix):
        def __getitem__(self, step):
            shown.append(step)
            if step in (8, 20):
                next(trainer.stage.unet.parameters()).data.fill_(torch.nan)
            return super().__getitem__(step)

    trainer = tiny_trainer(tmp_path, tiny, steps=32, log_every=1, save_minutes=1e-9, keep=99)
    mix = Spoiling(Still(), trainer.stage.spec, seed=0, steps=32)
    object.__setattr__(trainer.data, "mix", mix)
    assert trainer.run() == 32
    lines = read_log(tmp_path)
    first, second = [line for line in lines if "rolled_back_to" in line]
    assert first == {"step": 17, "rolled_back_to": "step-00000008"}
    assert second == {"step": 29, "rolled_back_to": "step-00000019"}
    assert lines[8]["grad_norm"] is None and lines[8]["loss"] is None
    assert lines[-1]["step"] == 32 and shown == list(range(32))
    assert trainer.guard.skipped == 2 * guards.IN_A_ROW and trainer.guard.rollbacks == 2
    assert all(torch.isfinite(weight).all() for weight in trainer.stage.unet.parameters())


@pytest.mark.parametrize("stop", [None, 18])
def test_what_was_gone_back_to_is_not_saved_again_before_a_good_step(tiny, tmp_path, stop):
    """Spoiled in the step before one that is saved, which shows later: the next time the run goes
    back further, as the save that was due meanwhile did not take the place of what is good."""
    trainer = tiny_trainer(tmp_path, tiny, steps=40, log_every=1, save_minutes=1e9, keep=2)
    one = next(trainer.stage.unet.parameters()).data[0, 0]
    loss, agreed = trainer._loss, trainer.ranks.agreed

    def shown_late(part, *given):
        found = loss(part, *given)
        if trainer.step == 5:
            one.fill_(500.0)
        late = trainer.step >= 8 and one.max() > 400
        return Loss(found.value * math.nan, found.per_clip, found.logsnr) if late else found

    def saving(*flags):
        ends = trainer.step == stop and len(flags) == 3
        return agreed(trainer.step in (3, 6, 12), *flags[1:-1], ends or flags[-1])

    trainer._loss = shown_late
    object.__setattr__(trainer.ranks, "agreed", saving)
    assert trainer.run() == stop or 40
    back = [line["rolled_back_to"] for line in read_log(tmp_path) if "rolled_back_to" in line]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    if stop:  # as by SIGTERM, in the step after the one that went back
        assert back == ["step-00000006"] and kept == ["step-00000003", "step-00000006"]
    else:
        assert back == ["step-00000006", "step-00000003"]


def test_a_guard_goes_on_with_what_it_has_seen():
    guard, again = Guard(), Guard()
    for norm in (*[math.nan] * guards.IN_A_ROW, *[1.0] * 60):
        guard.judge(norm, 1.0)
    again.restore(json.loads(json.dumps(guard.state())))
    for _ in range(guards.USUAL - 60):
        again.judge(1.0, 1.0)
    assert guard.rollbacks == 1 and again.rollbacks == 0


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path):
    trainer = tiny_trainer(tmp_path, tiny, steps=2)
    object.__setattr__(trainer.data, "validation", trainer.data.mix)
    trainer.save()
    trainer.saver.finish()
    saved = latest(tmp_path)
    for average in trainer.ema.average.values():
        average.fill_(torch.nan)
    trainer.step = 1
    trainer.save()
    trainer.saver.finish()
    assert saved is not None and latest(tmp_path) == saved == best(tmp_path)
    facts = saved.with_name("step-00000001") / FACTS  # as others may have saved it
    facts.parent.mkdir()
    facts.write_text(json.dumps({"step": 1, "validation": math.nan}))
    assert best(tmp_path) == saved == latest(tmp_path, back=1) == latest(tmp_path, back=9)


def test_a_full_disk_ends_the_run_in_a_line(tiny, tmp_path):
    trainer = tiny_trainer(tmp_path, tiny, steps=2)
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, bounds[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*model\.safetensors.*File too large"):
            trainer.save()
        with pytest.raises(ValueError, match=r"cannot save .*File too large.*run the same command"):
            trainer.saver.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert latest(tmp_path) is None and not (tmp_path / "model.safetensors").exists()
    assert tiny_trainer(tmp_path, tiny, steps=2).run() == 2


def test_torn_lines_of_a_log_are_left_out(tmp_path):
    whole = [{"step": 20, "loss_by_logsnr": {"..-8": 0.1}}, {"step": 40}]
    torn = json.dumps(whole[0])[:-1]  # ends in a brace all the same
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, whole), torn]))
    log = Log(tmp_path, step=30, tensorboard=False)
    log.write({"step": 40, "loss": math.inf})
    assert read_log(tmp_path) == [whole[0], {"step": 40, "loss": None}]


def test_a_watch_tells_kinds_and_noise_levels_apart():
    watch = Watch(Ranks(), flops_per_row=30, peak_flops=1e3)
    batch = Mix(Still(), presets.tiny().stages[0], seed=0, steps=1)[0]  # two clips, one pack
    per_clip = torch.tensor([1.0, 2.0, 6.0])
    logsnr = torch.tensor([-9.0, -1.0, 5.0])
    assert batch.is_video.tolist() == [True, True, False]
    assert list(watch.waiting(iter([batch]))) == [batch]
    with watch.aside():
        time.sleep(1.0)
    watch.saw(Loss(per_clip.mean(), per_clip, logsnr), batch)
    facts = watch.facts()
    assert (facts["loss"], facts["loss_video"], facts["loss_image"]) == (3, 1.5, 6)
    levels = {"..-8": 1, "-8..-4": None, "-4..0": 2, "0..4": None, "4..": 6}
    assert facts["loss_by_logsnr"] == levels
    assert 0 < facts["data_wait"] <= 1 and facts["memory_bytes"] > 2**20
    assert facts["clips_per_second"] > 3 / 1.0  # but for what was done aside
    assert facts["flops_share"] == pytest.approx(30 * facts["clips_per_second"] / 1e3, rel=1e-4)


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_has_curves_sheets_and_the_paths_of_samples(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from imagen_video.training.sheets import SheetDrawer, Shown

    trainer = tiny_trainer(tmp_path, tiny, steps=4, log_every=2, tensorboard=True)
    shown = Shown(prompts=("a square",))
    drawer = SheetDrawer(
        trainer.stage.spec, tiny.encoder, tmp_path / "sheets", shown, step=lambda: trainer.step
    )
    trainer.run(drawer)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4]
    assert any(tag.startswith("loss_by_logsnr/") for tag in events.Tags()["scalars"])
    assert [event.step for event in events.Images("sheet")] == [4]
    (said,) = events.Tensors("samples/text_summary")
    film = said.tensor_proto.string_val[0].decode()
    assert film.endswith("step-000004.mp4") and (tmp_path / "sheets" / "step-000004.mp4").exists()
