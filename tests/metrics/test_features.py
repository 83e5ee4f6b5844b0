import json
import warnings

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from imagen_video.data.stickers import render, scene_for
from imagen_video.metrics.alignment import ClipAligner, retrieved, score
from imagen_video.metrics.features import clip_extractor, frame_extractor
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.video import VideoFormat

FORMAT = VideoFormat(16, 48, 80, 3.0)


def clips(motion: str = "rising", count: int = 6) -> list[torch.Tensor]:
    concepts = ("cat", "rocket", "octopus", "apple", "car", "tree")
    return [
        render(scene_for(concept=name, motion=motion, background="blue", seed=i), FORMAT)
        for i, name in enumerate(concepts[:count])
    ]


@pytest.fixture(scope="module")
def proxy():
    return frame_extractor("proxy")


def test_the_proxy_tells_its_name_and_its_weights(proxy):
    assert proxy.facts.proxy
    assert "proxy" in proxy.facts.name
    assert proxy.facts.weights == "579344248a93e230"
    assert proxy(clips(count=1)[0]).shape == (16, 1280)


@pytest.mark.filterwarnings("ignore:.*reference samples")
def test_more_blur_and_more_noise_are_further_away(proxy):
    some = [clip[::4] for clip in clips()]
    true = Target(Moments.of(torch.cat([proxy(clip) for clip in some])))
    generator = torch.Generator().manual_seed(0)

    def distance(spoil) -> float:
        return true.of(torch.cat([proxy(spoil(clip)) for clip in some]))

    def noisy(amount: float):
        def spoil(clip: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(clip.shape, generator=generator) * amount
            return (clip + noise).round().clamp(0, 255).to(torch.uint8)

        return spoil

    def blurred(size: int):
        return lambda clip: torch.nn.functional.avg_pool2d(
            clip.float(), size, 1, size // 2, count_include_pad=False
        ).to(torch.uint8)

    assert distance(lambda clip: clip) < 1e-6
    assert 0 < distance(noisy(10)) < distance(noisy(40))
    assert 0 < distance(blurred(3)) < distance(blurred(7))


def test_clip_features_see_motion_that_frames_do_not():
    proxy = clip_extractor("proxy")
    moving = clips(count=1)[0]
    shuffled = moving[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    whole, mixed = proxy(moving)[0], proxy(shuffled)[0]
    # The first half averages frames, the second follows them.
    torch.testing.assert_close(whole[:32], mixed[:32], rtol=1e-4, atol=1e-4)
    assert (whole[32:] - mixed[32:]).norm() > 0.1 * whole[32:].norm()


class Inception(torch.nn.Module):
    """Takes and gives what the published TorchScript file of FID does; small and random."""

    def __init__(self, width: int = 2048):
        super().__init__()
        torch.manual_seed(0)
        self.filters = torch.nn.Conv2d(3, 8, 5, stride=4)
        self.out = torch.nn.Linear(8, width)

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8 and return_features
        return self.out(self.filters(images / 255).relu().mean((2, 3)))


class I3D(torch.nn.Module):
    """Takes and gives what the published TorchScript file of FVD does; small and random."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.filters = torch.nn.Conv3d(3, 8, (3, 7, 7), stride=(1, 16, 16))
        self.out = torch.nn.Linear(8, 400)

    def forward(
        self,
        videos: torch.Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return self.out(self.filters(videos).relu().mean((2, 3, 4)))


def scripted(network: torch.nn.Module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return str(path)


def test_inception_from_a_file(tmp_path):
    extract = frame_extractor(scripted(Inception(), tmp_path / "inception.pt"))
    video = clips(count=1)[0]
    assert not extract.facts.proxy
    with torch.inference_mode():
        torch.testing.assert_close(extract(video), Inception()(video, return_features=True))
    with pytest.raises(ValueError, match=r"other\.pt gives 64 numbers and the InceptionV3 of FID"):
        frame_extractor(scripted(Inception(64), tmp_path / "other.pt"))


def test_i3d_from_a_file(tmp_path):
    extract = clip_extractor(scripted(I3D(), tmp_path / "i3d.pt"))
    grey = torch.full((12, 3, 48, 80), 255, dtype=torch.uint8)
    white = torch.ones(1, 3, 12, 224, 224)
    with torch.inference_mode():
        asked = I3D()(white, rescale=False, resize=False, return_features=True)
    torch.testing.assert_close(extract(grey), asked)
    with pytest.raises(ValueError, match="10 frames or more, got 9"):
        extract(grey[:9])


@pytest.fixture(scope="module")
def videomae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videomae")
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    network = VideoMAEForVideoClassification(config)
    network.fc_norm.weight.data.fill_(3.0)
    network.save_pretrained(folder)
    facts = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


def test_videomae_from_a_folder(videomae):
    extract = clip_extractor(str(videomae))
    video = clips(count=1)[0]
    found = extract(video)
    assert found.shape == (1, 16)
    torch.testing.assert_close(found.std(correction=0), torch.tensor(3.0), rtol=1e-3, atol=0)
    # It looks at 4 frames, evenly spaced, whatever lies between.
    between = video.clone()
    between[1:4] = 0
    torch.testing.assert_close(extract(between), found)
    assert not torch.allclose(extract(video.flip(0)), found)


def tokenizer_into(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[EOS]", "red", "blue", "a"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    ).save_pretrained(folder)


TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 6,
    "max_position_embeddings": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPREAD = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.3, 0.3]}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_and_siglip_from_a_folder(tmp_path, kind):
    torch.manual_seed(0)
    if kind == "clip":
        network = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))
        wanted = {"do_center_crop": True, "resample": 3, "size": {"shortest_edge": 32}}
        wanted = {"image_processor": wanted | SPREAD}  # as newer versions save a processor
    else:
        network = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION))
        wanted = {"resample": 3, "size": {"height": 32, "width": 32}} | SPREAD
    network.save_pretrained(tmp_path)
    tokenizer_into(tmp_path)
    with pytest.raises(ValueError, match="says no image_mean and image_std"):
        ClipAligner(str(tmp_path))
    name = "processor_config.json" if kind == "clip" else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(wanted))
    aligner = ClipAligner(str(tmp_path))
    video = clips(count=1)[0]
    seen, told = aligner.video(video), aligner.prompts(["red a", "blue a", "blue"])
    assert seen.shape[0] == 16 and told.shape[0] == 3
    for rows in (seen, told):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert not torch.allclose(told[0], told[1])
    # CLIP sees only the middle square (and what the resize's filter takes from beside it).
    sides = video.clone()
    sides[..., :12] = sides[..., -12:] = 0
    assert torch.allclose(aligner.video(sides), seen, atol=1e-5) == (kind == "clip")
    assert "bicubic" in aligner.facts.resize and "0.4" in aligner.facts.resize
    assert ("crop" in aligner.facts.resize) == (kind == "clip")
    assert not aligner.facts.proxy


def test_score_and_retrieval_by_hand():
    prompts = torch.eye(3)
    video = torch.tensor([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.1, 0.0]])
    assert score(video, prompts[0]) == pytest.approx(100 * 1.6 / 3)
    # Of its frames the first fits prompt 1 best, the next prompt 0, the last prompt 1.
    assert retrieved(video, prompts, 1) == pytest.approx(2 / 3)
    assert retrieved(video, prompts, 0) == pytest.approx(1 / 3)
    assert retrieved(video[:1], prompts, 2) == 0


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no network at .*missing\.pt"):
        frame_extractor(str(tmp_path / "missing.pt"))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no TorchScript .* give inception-2015-12-05\.pt"):
        clip_extractor(str(tmp_path / "broken.pt"))
    for load, network in ((frame_extractor, I3D()), (clip_extractor, Inception())):
        path = scripted(network, tmp_path / "exchanged.pt")
        with pytest.raises(ValueError, match=r"exchanged\.pt does not run as .* give the file of"):
            load(path)
    with pytest.raises(ValueError, match="cannot load VideoMAEFor"):
        clip_extractor(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="cannot load AutoModel"):
        ClipAligner(str(tmp_path / "nothing"))
