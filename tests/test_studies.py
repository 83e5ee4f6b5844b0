import itertools
import json
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from study import train, work
from study.arms import SEEDS, SPACING, STICKERS, Arm, always, base_stage, skewed, table
from study.captions import every_caption
from study.library import LIBRARIES, Diet, Library, render_missing
from study.measure import BIAS_WEIGHTS, FEW_STEPS, WEIGHTS, Measured, every_scene
from study.plots import PLOTS
from study.probe import shares_of
from study.report import KEPT, read, report
from study.train import Place, Stopped
from study.upsampling import LEVELS
from study.world import CONCEPTS, GROUNDS, MOTIONS, PARTS, STYLES, caption, held_out, single

from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.text.encoder import TextEmbedding
from imagen_video.training.student import Lesson
from imagen_video.weights import load_stage


class Letters:
    """A text encoder that needs no weights."""

    name, dim, length = "letters", 384, 32

    def __call__(self, prompts):
        rows = [
            torch.randn(5, 384, generator=torch.Generator().manual_seed(len(p))) for p in prompts
        ]
        return TextEmbedding.pad(rows, self.length)


def test_every_arm_can_be_run():
    arms = table()
    assert {arm.study for arm in arms.values()} == {
        *("reference", "prediction", "joint", "size", "augmentation"),
        *("guidance", "text", "generalisation", "bias", "distillation"),
    }
    for arm in arms.values():
        assert arm.measure in work.MEASURES
        assert arm.of is None or (arms[arm.of].trains and arms[arm.of].kept) or arm.diet
        assert arm.trains == (arm.diet is not None) and (arm.stage is None or arm.lesson is None)
        if arm.stage is not None and arm.diet is not None:
            assert LIBRARIES[arm.diet.library].format == arm.stage.output
            assert all(0 < step < arm.stage.train.steps for step in arm.looks)
    assert arms["reference/base"].kept


HOLDING_OUT = [key for key, arm in table().items() if arm.diet and arm.diet.clips is not always]


@pytest.mark.parametrize("key", HOLDING_OUT)
def test_training_shows_nothing_that_is_held_out(key):
    diet = table()[key].diet
    facts = LIBRARIES[diet.library].facts("clips")
    shown = [facts[i] for i in diet.chosen("clips")]
    assert shown and not any(map(held_out, shown))
    assert any(map(held_out, facts))


def test_what_is_held_out():
    assert held_out(single(CONCEPTS[0], STYLES[0], MOTIONS[0], "red"))
    assert not held_out(single(CONCEPTS[1], STYLES[0], MOTIONS[0], "red"))
    assert held_out(single(CONCEPTS[0], STYLES[0], SOLID_MOTIONS[0], "red"))
    asked = every_scene(seed=1)
    assert sum(map(held_out, asked)) == 6 * (3 * 3 + 1)
    assert {facts.background for facts in asked} == set(GROUNDS)


def test_captions_say_what_they_should_and_are_all_known():
    facts = single("airplane", "glossy cartoon", "rising", "red")
    assert caption(facts) == "an airplane rising on a red background, glossy cartoon"
    assert caption(facts, PARTS) == "an airplane"
    known = every_caption()
    assert {caption(f) for f in every_scene(0)} | {caption(facts, PARTS), ""} <= known
    assert len(known) < 4000
    unsaid = replace(STICKERS, unsaid=0.25)
    told = [unsaid.caption(facts, i) for i in range(400)]
    assert 60 < sum("red" not in text for text in told) < 140


@pytest.mark.parametrize(("small", "large"), [("base", "fine"), ("truth", "fine truth")])
def test_a_clip_of_the_finer_set_is_the_same_clip(small, large):
    """The whole of it, where those of study 1 are parts of larger ones."""
    for i in range(4):
        clip, finer = (LIBRARIES[name].picture("clips", i) for name in (small, large))
        again = torch.nn.functional.avg_pool2d(finer.float(), 2)
        assert (again - clip).abs().mean() < 2
    crop, whole = (LIBRARIES[name].picture("clips", 0).float() for name in ("crops", "fine"))
    assert (crop - whole).abs().mean() > 10


def test_skewed_data_is_skewed():
    facts = LIBRARIES["base"].facts("clips")
    chosen = replace(STICKERS, clips=skewed).chosen("clips")
    shares = shares_of([{"g": facts[i].background} for i in chosen], "g")
    assert shares["red"] == pytest.approx(0.5, abs=0.08)


@pytest.fixture
def little(tmp_path, monkeypatch):
    """One arm of six steps on a library of eight clips, and a place to run it in."""
    small = Library(name="base", clips=8, stills=8)
    monkeypatch.setitem(LIBRARIES, "base", small)
    stage = base_stage((32, 32), steps=6, clips=1, image_packs=1)
    diet = Diet(library="base", clips=lambda f: 1.0, stills=lambda f: 1.0)
    arm = replace(table()["reference/base"], stage=stage, diet=diet, looks=(3,))
    after = Arm(study="guidance", name="base", measure="base", of=arm.key)
    monkeypatch.setattr(work, "table", lambda: {arm.key: arm, after.key: after})
    monkeypatch.setattr(work, "SEEDS", (0, 1))
    monkeypatch.setattr(work, "WAIT", 0.0)
    measured = []

    def measure(subject):
        measured.append(subject.seed)
        return Measured({"right": {}}, [torch.zeros(8, 3, 24, 24, dtype=torch.uint8)])

    monkeypatch.setitem(work.MEASURES, "base", measure)
    folder = tmp_path / "libraries"
    folder.mkdir()
    pixels = {
        kind: torch.stack([small.picture(kind, i) for i in range(8)])
        for kind in ("clips", "stills")
    }
    save_file(pixels, small.path(folder))
    end = time.monotonic() + 1000
    return arm, Place(tmp_path, tmp_path, Letters(), torch.device("cpu"), end), measured


def test_a_finished_arm_is_not_done_again(little):
    arm, place, measured = little
    work.work(place, [])
    # A look on the way and the end, then the arm that samples from its weights, of every seed.
    assert measured == [0, 0, 1, 1, 0, 1]
    folder = place.folder(arm.key, 0)
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {"result.json", "sheet.png", "stage.json", "model.safetensors"}
    other = place.folder("guidance/base", 0)
    assert {path.name for path in other.iterdir()} - {".lock"} == {"result.json", "sheet.png"}
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 6 and list(result["looks"]) == ["000003"]
    work.work(place, [])
    assert len(measured) == 6


def test_a_stopped_arm_goes_on_where_it_was(little):
    arm, place, _ = little
    whole = train.trained(arm, 0, place, lambda stage, step: None)
    other = replace(place, out=place.out / "other")
    (place.out / "other").mkdir()
    (other.out / "libraries").symlink_to(place.libraries)

    def stop(stage, step):
        object.__setattr__(other, "end", 0.0)

    with pytest.raises(Stopped, match="at step 3 of 6"):
        train.trained(arm, 0, other, stop)
    object.__setattr__(other, "end", place.end)
    again = train.trained(arm, 0, other, lambda stage, step: pytest.fail("looked again"))
    name = "model.safetensors"
    assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_a_student_has_the_weights_and_the_steps_of_its_teacher(little):
    arm, place, _ = little
    train.trained(arm, 0, place, lambda stage, step: None)
    train_ = replace(base_stage(steps=2, clips=1, image_packs=1).train, warmup=0)
    lesson = Lesson(steps=8, weights=(0.0, 4.0))
    student = Arm(
        study="distillation",
        name="8",
        measure="base",
        lesson=lesson,
        train=train_,
        diet=arm.diet,
        of=arm.key,
    )
    begun = train.begun(student, 0, place)
    teacher = load_stage(place.folder(arm.key, 0))
    for name, weight in teacher.unet.state_dict().items():
        torch.testing.assert_close(begun.unet.state_dict()[name], weight.float())
    found = load_stage(train.trained(student, 0, place, lambda stage, step: None)).spec
    assert (found.sampler.num_steps, found.sampler.logsnr_shift) == (8, SPACING)
    assert found.unet.guided == (0.0, 4.0)


def test_a_failing_arm_leaves_its_error_and_others_are_done(little, monkeypatch):
    arm, place, measured = little
    well = work.MEASURES["base"]

    def fail(subject):
        if subject.seed == 1:
            raise RuntimeError("no")
        return well(subject)

    monkeypatch.setitem(work.MEASURES, "base", fail)
    work.work(place, [])
    # Nor is what would sample from it.
    assert set(measured) == {0}
    assert "RuntimeError: no" in (place.folder(arm.key, 1) / "error.txt").read_text()
    with work.claimed(place.folder(arm.key, 1)) as free:
        assert free


def test_libraries_are_rendered_once_by_several_processes(tmp_path):
    little = Library(name="a few", clips=3, stills=2)
    render_missing([little], tmp_path, 1)
    pixels = little.opened(tmp_path)
    assert pixels["clips"].shape == (3, 8, 3, 24, 24) and pixels["stills"].shape[1] == 1
    assert (pixels["clips"][2] == little.picture("clips", 2)).all()
    render_missing([little], tmp_path, 1)


PARTS_ASKED = ("concept", "style", "motion", "background", "everything", "direction")
LETTERS_ASKED = ("letter 0", "letter 1", "letter 2", "background", "everything")


def made_up(measure: str, right: int) -> dict:
    """What a measure would have found, had it got so many of a hundred right."""
    answers = {part: (right, 100) for part in PARTS_ASKED + LETTERS_ASKED}
    groups = ("seen", "held out", "style of stills", "truth")
    row = {"right": answers, "frechet": 1.0, "saturation": 0.5, "clipped": 0.1, "psnr": 30.0}
    settings = [("off", "static")]
    settings += itertools.product((f"constant {w:g}" for w in WEIGHTS), ("static", "dynamic"))
    settings += itertools.product((f"oscillating {w:g}" for w in WEIGHTS), ("static", "dynamic"))
    levels = itertools.product(("truth", "base"), ("none", *(f"{level:g}" for level in LEVELS)))
    counts = {part: {"x": right - 10, "y": 110 - right} for part in PARTS}
    base = {"right": dict.fromkeys(groups, answers), "frechet": 1.0}
    return {
        "base": base,
        "steps": {"rows": [base | {"steps": n} for n in FEW_STEPS]},
        "turning": {"right": dict.fromkeys(groups, answers)},
        "words": {"right": dict.fromkeys(groups, answers)},
        "guidance": {
            "settings": [row | {"guidance": g, "threshold": t} for g, t in settings],
            "truth": {"saturation": 0.5},
        },
        "bias": {
            "weights": {
                f"{w:g}": {"counts": counts, "right": {"concept": (right, 100)}}
                for w in BIAS_WEIGHTS
            },
            "data": {part: {"x": 0.5, "y": 0.5} for part in PARTS},
        },
        "fine": {"rows": [row | {"source": s, "level": level} for s, level in levels]},
        "crops": CROPS,
    }[measure]


CROPS = dict.fromkeys(
    ("first frame FID (proxy)", "colour shift", "colour flicker", "change error", "psnr"), 1.0
)


def write(out, arm, seed, right):
    folder = out / f"{arm.key.replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True)
    facts = {"arm": arm.key, "seed": seed, "steps": 9, "parameters": 1, "looks": {}}
    facts["measured"] = made_up(arm.measure, right)
    (folder / "result.json").write_text(json.dumps(facts))


def test_report_of_made_up_results(tmp_path, capsys):
    for arm in table().values():
        less = 10 if arm.key == "size/small" else 0
        for seed, right in zip(SEEDS, (50, 60, 70), strict=True):
            if arm.key != "prediction/eps" or seed < 2:
                write(tmp_path, arm, seed, right - less)
    report(tmp_path, tmp_path / "docs")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert {t["study"] for t in facts["tables"]} | {"bias"} == set(
        "prediction joint size augmentation guidance text generalisation distillation bias".split()
    )
    size = next(t for t in facts["tables"] if t["study"] == "size")
    medium, small, _ = size["lines"]
    assert medium["values"]["concept, %"]["mean"] == 60
    assert small["difference"]["concept, %"] == {"mean": -10, "low": -10, "high": -10, "of": 3}
    first = facts["bias"][0]
    # One seed leans to x as the next leans to y: together they would look even.
    assert [d["variation"] for d in first["departures"]] == pytest.approx([0.1, 0, 0.1])
    assert first["variation"]["mean"] == pytest.approx(2 / 30)
    assert first["thing"]["mean"] == 60 and first["variation"]["high"] > 0.1
    assert facts["missing"] == ["prediction/eps-2"]
    assert "| small | -10 (-10 to -10)" in (tmp_path / "report.md").read_text()
    assert "Not finished: prediction/eps-2." in capsys.readouterr().out
    files = {f"study-{n}.png" for n in PLOTS} | {KEPT}
    assert {path.name for path in (tmp_path / "docs").iterdir()} == files
    # Of what is kept there all is known, without the folder of any arm.
    assert read(tmp_path / "elsewhere", tmp_path / "docs") == read(tmp_path)


def test_report_of_nothing_yet(tmp_path, capsys):
    report(tmp_path, None)
    assert "reference/base-0" in capsys.readouterr().out
