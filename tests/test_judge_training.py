"""The judges' training script: what it learns is saved with how often it is right."""

from dataclasses import replace

import judge  # pyright: ignore
import pytest
import torch
from safetensors.torch import load_file

from imagen_video.metrics.judge import Accuracy, Judge
from imagen_video.metrics.matcher import Matcher

CLIPS = 4
EXACT = ("background", "rotation")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Small batches, one size, few captions to choose from."""
    whole = {name: replace(task, batch=4) for name, task in judge.tasks().items()}
    monkeypatch.setattr(judge, "tasks", lambda: whole)
    monkeypatch.setattr(judge, "SIZES", ((24, 40),))
    monkeypatch.setattr(judge, "CANDIDATES", CLIPS)
    return judge.Options(out=tmp_path, clips=CLIPS, steps=2, threads=1)


def test_judges_are_trained_and_measured(small, capsys):
    judge.main(small)
    look, motion = (Judge.load(small.out / f"{name}.safetensors") for name in ("look", "motion"))
    assert {a.question for a in look.accuracies} >= {"concept", "style", "style, 3D as flat"}
    known = {a.question: a for a in motion.accuracies}
    # What is told without learning is right from the start.
    assert all(known[name].right == known[name].of > 0 for name in EXACT)
    assert known["motion"].of == CLIPS and known["motion"].size == "24x40"
    [match] = Matcher.load(small.out / "match.safetensors").accuracies
    assert (match.question, match.of) == ("match", CLIPS)
    said = capsys.readouterr().out
    assert "background       24x40    100.0 (" in said


def test_measuring_again_leaves_weights_and_what_cannot_be_measured(small, monkeypatch):
    small = replace(small, only=("motion",))
    judge.main(small)
    path = small.out / "motion.safetensors"
    before, kept = load_file(path), Judge.load(path)
    words = Accuracy("word", "192x320", 81, 90)
    kept.accuracies = (*(a for a in kept.accuracies if a.question != "word"), words)
    kept.save(path)
    monkeypatch.setattr(judge, "reader", lambda: None)  # without RapidOCR
    judge.main(replace(small, measure=True))
    after = load_file(path)
    assert all((after[name] == weight).all() for name, weight in before.items())
    assert words in Judge.load(path).accuracies


def test_a_judge_learns_what_it_is_shown():
    """Two clips by heart: the answers of both questions."""
    task = replace(judge.tasks()["look"], batch=2, steps=1)
    (clips, scenes) = judge.Lessons(task, 1)[0]
    torch.manual_seed(0)
    network = judge.ClipNet(task.spec.view, judge.outputs(task.spec))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = judge.answering(network(judge.spoil(judge.to_float(clips))), task.spec, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
