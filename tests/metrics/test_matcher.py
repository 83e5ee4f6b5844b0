from dataclasses import replace

import pytest
import torch

from imagen_video.metrics.alignment import MatcherAligner, retrieved
from imagen_video.metrics.clipnet import ViewSpec
from imagen_video.metrics.judge import Accuracy
from imagen_video.metrics.matcher import Matcher, MatcherFacts, MatcherSpec
from imagen_video.text.encoder import MiniLMEncoder

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def clip(colour: str, brightness: float) -> torch.Tensor:
    paint = torch.tensor(COLOURS[colour]).float().view(1, 3, 1, 1) * brightness
    video = torch.full((4, 3, 12, 16), 0.0)
    video[:, :, 3:9, 4:12] = paint
    return video


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder(16)


@pytest.fixture(scope="module")
def matcher(encoder) -> Matcher:
    torch.manual_seed(0)
    look = ViewSpec(frames=4, height=12, width=16, over_time=True, widths=(8, 16))
    spec = MatcherSpec(
        view=look, encoder=encoder.name, text_dim=encoder.dim, dim=16, width=32, layers=1
    )
    matcher = Matcher(MatcherFacts(spec, (Accuracy("match", "12x16", 4, 4),)))
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=5e-3)
    names = list(COLOURS)
    text = encoder([f"a {name} box" for name in names])
    for step in range(40):
        video = torch.stack([clip(name, 0.5 + step % 5 / 10) for name in names])
        loss = matcher.loss(video, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return matcher.eval()


def test_clips_find_their_captions_and_survive_saving(matcher, encoder, tmp_path):
    matcher.save(tmp_path / "match.safetensors")
    again = Matcher.load(tmp_path / "match.safetensors")
    assert again.spec == matcher.spec and again.accuracies == matcher.accuracies
    aligner = MatcherAligner.of(again, encoder)
    assert aligner.facts.proxy
    prompts = aligner.prompts([f"a {name} box" for name in COLOURS])
    for own, name in enumerate(COLOURS):
        video = ((clip(name, 0.75) + 1) * 127.5).byte()
        video = torch.nn.functional.interpolate(video.float(), scale_factor=3).byte()
        assert retrieved(aligner.video(video.repeat(2, 1, 1, 1)), prompts, own)


def test_padding_is_not_read(matcher, encoder):
    text = encoder(["a red box"])
    spoiled = replace(text, tokens=text.tokens.clone())
    spoiled.tokens[~text.mask] = 100.0
    torch.testing.assert_close(matcher.captions(spoiled), matcher.captions(text))


def test_another_encoder_is_refused(matcher):
    with pytest.raises(ValueError, match="reads embeddings of"):
        MatcherAligner.of(matcher, MiniLMEncoder(8))
