"""What the studies measure, by hand and on untrained stages whose answers are known."""

from dataclasses import replace

import pytest
import torch
from study import measure, upsampling
from study.arms import base_stage, crop_stage, fine_stage, table
from study.judges import Eye, examined, lessons
from study.library import FINE, LIBRARIES, WIDE, Library, render_missing
from study.measure import Subject, by_group, colourfulness, rights
from study.sample import with_sampler
from study.train import Place
from study.upsampling import change_error, colour_shift, pooled_psnr
from study.world import CONCEPTS, GROUNDS, MOTIONS, STYLES, single
from test_studies import Letters  # pyright: ignore

from imagen_video.metrics.judge import ClipNet, Facts, Judge, outputs
from imagen_video.stage import Stage

FEW = 4


def grey(value: int, *, frames: int = 2) -> torch.Tensor:
    return torch.full((1, frames, 3, 4, 4), value, dtype=torch.uint8)


def test_answers_are_counted_for_each_question_and_for_all():
    asked = [single(CONCEPTS[0], STYLES[0], motion, GROUNDS[0]) for motion in MOTIONS[:3]]
    seen = [
        {"concept": CONCEPTS[0], "motion": MOTIONS[0]},
        {"concept": CONCEPTS[1], "motion": MOTIONS[1]},
        {"concept": CONCEPTS[0], "motion": MOTIONS[0]},
    ]
    parts = ("concept", "motion")
    found = rights(asked, seen, parts)
    assert found == {"concept": (2, 3), "motion": (2, 3), "everything": (1, 3)}
    grouped = by_group(["a", "b", "a"], asked, seen, parts)
    assert grouped["a"]["motion"] == (1, 2) and grouped["b"]["concept"] == (0, 1)


def test_colours_are_as_they_are():
    red = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    red[:, :, 0] = 200
    assert colourfulness(red) == pytest.approx({"saturation": 1.0, "clipped": 2 / 3})
    assert colourfulness(grey(90)) == {"saturation": 0.0, "clipped": 0.0}


def test_shifts_and_changes_are_of_the_truth():
    bright = grey(110)
    found = colour_shift(bright, grey(100))
    assert found == pytest.approx({"colour shift": 10 * 3**0.5, "colour flicker": 0.0})
    bright[:, 1] = 90  # ten above, ten below
    found = colour_shift(bright, grey(100))
    assert found == pytest.approx({"colour shift": 10 * 3**0.5, "colour flicker": 10 * 3**0.5})
    assert change_error(bright, grey(100)) == 20
    assert pooled_psnr(grey(110), grey(100)) == pytest.approx(28.13, abs=0.01)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A few true clips, and judges that have learned nothing."""
    libraries = [
        Library(name="fine truth", format=FINE, clips=12, first=10**6),
        Library(name="crop truth", format=FINE, crop_of=WIDE, clips=12, first=10**6),
    ]
    for library in libraries:
        monkeypatch.setitem(LIBRARIES, library.name, library)
    monkeypatch.setattr(upsampling, "COUNT", FEW)
    monkeypatch.setattr(measure, "EACH", 1)
    place = Place(tmp_path, tmp_path, Letters(), torch.device("cpu"), float("inf"))
    render_missing(libraries, place.libraries, 1)
    (tmp_path / "judges").mkdir()
    torch.manual_seed(0)
    for name in ("looks", "moves"):
        spec = lessons()[name].spec
        Judge(ClipNet(spec.view, outputs(spec)), Facts(spec)).save(
            tmp_path / "judges" / f"{name}.safetensors"
        )
    return place


def subject(key: str, spec, place: Place, before: Stage | None = None) -> Subject:
    torch.manual_seed(0)
    arm = table()[key]
    diet = arm.diet or table()["reference/base"].diet
    assert diet is not None
    return Subject(arm, 0, place, Stage(spec), diet, before)


@pytest.mark.filterwarnings("ignore:.*reference samples")
def test_a_stage_that_enlarges_is_found_to_do_so(place):
    """Untrained, it answers with its small clip enlarged: of next to no noise that is about the
    row without a stage; more noise comes through."""
    before, spec = with_sampler(Stage(base_stage()), num_steps=1), fine_stage()
    spec = replace(spec, sampler=replace(spec.sampler, num_steps=1))
    found = upsampling.fine(subject("reference/ssr", spec, place, before)).facts["rows"]
    rows = {(row["source"], row["level"]): row for row in found}
    assert len(rows) == len(found) == 8
    plain, through, noisy = (rows["truth", level] for level in ("none", "12", "1.6"))
    assert through["psnr"] == pytest.approx(plain["psnr"], abs=2.5)
    assert noisy["psnr"] < through["psnr"] - 4
    assert plain["right"]["background"] == through["right"]["background"] == (FEW, FEW)
    assert through["frechet"] == pytest.approx(plain["frechet"], rel=0.2)
    assert "psnr" not in rows["base", "12"]


@pytest.mark.filterwarnings("ignore:.*reference samples")
def test_crops_are_measured_against_their_own_truth(place):
    spec = crop_stage("v")
    spec = replace(spec, unet=replace(spec.unet, predicts="x"))
    sampler = replace(spec.sampler, num_steps=2, aug_logsnr=12.0)
    found = upsampling.crops(subject("prediction/v", replace(spec, sampler=sampler), place)).facts
    assert found["colour shift"] < 2 and found["colour flicker"] < 1
    assert found["psnr"] > 15 and found["first frame FID (proxy)"] > 0


def test_neutral_prompts_are_counted_against_the_data(place):
    few = base_stage()
    few = replace(few, sampler=replace(few.sampler, num_steps=1))
    found = measure.bias(subject("bias/skewed", few, place)).facts
    assert set(found["weights"]) == {"0", "2", "6"}
    for at in found["weights"].values():
        assert at["right"]["concept"][1] == len(CONCEPTS)
        assert all(sum(counts.values()) == len(CONCEPTS) for counts in at["counts"].values())
    assert sum(found["data"]["style"].values()) == pytest.approx(1)
    assert found["data"]["background"]["red"] > 2 * found["data"]["background"]["yellow"]


def test_a_judge_is_examined_on_what_it_has_not_seen(place):
    library = LIBRARIES["fine truth"]
    judge = Eye(place.carried / "judges" / "looks.safetensors", place.device).judge
    found = {a.question: a for a in examined(judge, library, library.opened(place.libraries))}
    assert (found["background"].right, found["background"].of) == (12, 12)
    assert found["concept"].size == "48x48" and found["concept"].right < 12
