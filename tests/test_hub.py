"""Cascades pushed to and fetched from a hub of this machine, through huggingface_hub."""

import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from local_hub import LocalHub, local_hub  # pyright: ignore

from imagen_video import presets
from imagen_video.card import model_card
from imagen_video.cascade import Cascade
from imagen_video.files import Unreachable
from imagen_video.index import INDEX, located, read_index, write_index
from imagen_video.metrics.features import digest, fetched, frame_extractor
from imagen_video.spec import CascadeSpec, TextSpec
from imagen_video.spec_json import from_json

NAME = "somebody/tiny-video"
# huggingface_hub uploads large files in a way that httpx would like to see otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub


def pushed(tiny: Cascade, hub: LocalHub) -> dict[str, bytes]:
    """The files of the hub's model after a push."""
    assert tiny.push_to_hub(NAME, private=True, token="secret") == f"{hub.url}/{NAME}"
    return list(hub.models[NAME].values())[-1]


def test_what_was_pushed_is_fetched_and_makes_the_same_video(tiny, hub):
    files = pushed(tiny, hub)
    stages = [f"{stage.name}/{file}" for stage in tiny.spec.stages for file in
              ("stage.json", "model.safetensors")]  # fmt: skip
    assert sorted(files) == sorted([INDEX, "README.md", *stages])
    assert (hub.private[NAME], hub.tokens) == ("private", {"Bearer secret"})
    loaded = Cascade.from_pretrained(NAME, dtype=torch.float32)
    assert loaded.spec == tiny.spec
    assert torch.equal(loaded("a cat", until="tsr1").frames, tiny("a cat", until="tsr1").frames)


def test_only_a_cascades_files_are_fetched_and_only_once(tiny, hub):
    files = pushed(tiny, hub)
    files |= {"base/pytorch_model.bin": b"pickle", "other/model.safetensors": b"large"}
    folder = located(NAME, weights=True)
    fetched = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert fetched == set(files) - {
        "README.md",
        "base/pytorch_model.bin",
        "other/model.safetensors",
    }
    before = len(hub.asked)
    assert located(NAME, weights=True) == folder
    assert hub.asked[before:] == [f"GET /api/models/{NAME}/revision/main"]


class Colours(torch.nn.Module):
    """As InceptionV3 with the FID weights is called."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        return images.float().mean((1, 2, 3))[:, None].expand(-1, 2048)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_features_come_from_a_file_of_the_hub(hub, tmp_path):
    torch.jit.script(Colours()).save(str(tmp_path / "net.pt"))
    hub.models["somebody/fid"] = {"0" * 40: {"net.pt": (tmp_path / "net.pt").read_bytes()}}
    path = fetched("somebody/fid/net.pt")
    assert path.read_bytes() == (tmp_path / "net.pt").read_bytes()
    assert frame_extractor("somebody/fid/net.pt").facts.weights == digest(path)
    with pytest.raises(ValueError, match="somebody/none"):
        frame_extractor("somebody/none/net.pt")


def test_specs_alone_need_no_weights(tiny, hub):
    pushed(tiny, hub)
    assert presets.find(NAME) == tiny.spec
    assert not [asked for asked in hub.asked if asked.startswith("GET") and "model.saf" in asked]


def test_a_revision_is_what_it_was(tiny, hub):
    pushed(tiny, hub)
    first = next(iter(hub.models[NAME]))
    other = tiny.with_sampler("base", tiny.stages[1].spec.sampler)
    other.push_to_hub(NAME, token="secret")
    assert presets.find(NAME) == other.spec
    assert Cascade.from_pretrained(NAME, revision=first).spec == tiny.spec
    with pytest.raises(ValueError, match="has no such revision"):
        Cascade.from_pretrained(NAME, revision="v9")
    with pytest.raises(ValueError, match="has no revisions"):
        Cascade.from_pretrained("mini", revision="v9")


def test_a_hub_that_is_away_leaves_what_is_in_the_cache(tiny, hub, monkeypatch):
    pushed(tiny, hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        located(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = located(NAME)
    hub.open = False
    assert located(NAME) == folder
    with pytest.raises(Unreachable, match="503"):
        located("somebody/else")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("somebody/nothing", "no model of"),
        ("nowhere/at/all", "give 'mini'"),
        ("x", "or org/name"),
    ],
)
def test_what_is_nowhere_is_said_in_a_line(hub, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        Cascade.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_a_push_that_is_refused_says_so(tiny, hub):
    with pytest.raises(ValueError, match="not open to you"):
        tiny.push_to_hub(NAME, token="nobody")
    with pytest.raises(ValueError, match="named like org/name"):
        tiny.push_to_hub("tiny")
    with pytest.raises(ValueError, match="no licence"):
        tiny.push_to_hub(NAME, card="---\ntags: []\n---\n")


def test_a_text_encoder_of_this_machine_is_not_shared(tmp_path):
    spec = presets.tiny(TextSpec(encoder="t5", name=str(tmp_path), dim=16))
    cascade = Cascade.__new__(Cascade)
    cascade.spec = spec
    with pytest.raises(ValueError, match="folder of this machine"):
        cascade.push_to_hub(NAME)


def test_the_card_names_every_stage():
    card = model_card(NAME, presets.mini(), license="mit", about="## Data\n\nStickers.\n")
    assert card.startswith("---\nlicense: mit\n") and card.endswith("## Data\n\nStickers.\n")
    assert "| base | 16 frames of 40x24 | 13.45M | 16 | 3 |" in card
    assert "128 frames of 1280x768 at 24 a second" in card
    assert "evaluate somebody/tiny-video" in model_card(NAME, presets.tiny())


def test_an_index_of_something_else_is_refused(tmp_path):
    for text, message in (
        ('{"_class_name": "StableDiffusionPipeline"}', "is of a StableDiffusionPipeline"),
        ('{"_class_name": "Cascade"}', "no index of a cascade"),
        ("[]", "no index of a cascade"),
        ("{", "no index of a cascade"),
    ):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_index(tmp_path)
    write_index(tmp_path, presets.tiny())
    with pytest.raises(ValueError, match=r"no stage.json in .*base"):
        read_index(tmp_path)


HERE = """
import sys
from imagen_video import presets
from imagen_video.spec_json import to_json
print(to_json(presets.find(sys.argv[1])))
"""


def test_the_environment_says_where_the_hub_and_its_cache_are(tiny, tmp_path):
    """In a process of its own: it is read when huggingface_hub is imported."""
    tiny.save_pretrained(tmp_path)
    files = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.json")}
    with local_hub() as hub:
        hub.models[NAME] = {"a" * 40: files}
        home = tmp_path / "home"
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
        command = [sys.executable, "-c", HERE, NAME]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert from_json(CascadeSpec, said.stdout) == tiny.spec
    assert list(home.rglob(INDEX))
