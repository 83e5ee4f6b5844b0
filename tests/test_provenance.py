"""A signed file says where it comes from, nothing else, and that it was changed if it was."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from forked import imagen_video as run  # pyright: ignore

from imagen_video import signer as keys
from imagen_video.provenance import Marks, inspect, read_manifest, sign
from imagen_video.sampling import save_video
from imagen_video.signer import Signer
from imagen_video.video import VideoWriter, read_video

FACTS = {
    "prompt": "a secretive kiwi",
    "negative_prompt": "a loud emu",
    "source": "/home/someone/holiday.mp4",
    "seed": 7,
    "steps": None,
    "model": "mini",
    "spec": {"stages": []},
}
PRIVATE = (b"kiwi", b"emu", b"someone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("keys") / "c2pa"


@pytest.fixture(scope="module")
def signer(folder) -> Signer:
    return Signer.local(folder)


def frames(count=3):
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(320.0), indexing="ij")
    clip = [
        90 + 0.2 * x + 60 * ((x - 50 - 20 * i).square() + y.square() < 8000) for i in range(count)
    ]
    return torch.stack(clip)[:, None].repeat(1, 3, 1, 1).to(torch.uint8)


def save(path, signer, **options):
    source = options.pop("source", None)
    writer = partial(Marks(signer, **options).writer, source=source)
    save_video(path, frames(), fps=6.0, metadata=FACTS, writer=writer)
    return path


def test_a_saved_video_is_marked_and_signed(tmp_path, signer, folder):
    path = save(tmp_path / "a.mp4", signer)
    report = inspect(path)
    assert report.watermark.found and report.watermark.p < 1e-20
    manifest = report.manifest
    assert manifest.state == "valid" and manifest.problems == ()
    assert manifest.signer.startswith("imagen-video, local key ") and not manifest.trusted
    assert manifest.generator.startswith("imagen-video 0")
    assert manifest.actions == ("c2pa.created", "c2pa.watermarked.unbound")
    assert manifest.source_type == "trainedAlgorithmicMedia"
    assert manifest.facts == {"seed": 7, "model": "mini"}
    assert read_manifest(path, trust=folder / "root.pem").trusted
    clip = read_video(path)
    assert clip.frames.shape == (3, 3, 192, 320) and clip.metadata["seed"] == 7
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.mp4"]


def test_the_prompt_is_told_only_if_asked(tmp_path, signer):
    data = save(tmp_path / "a.mp4", signer).read_bytes()
    assert not any(word in data for word in PRIVATE)
    assert json.loads((tmp_path / "a.json").read_text()) == FACTS
    told = save(tmp_path / "b.mp4", signer, prompt=True)
    assert read_manifest(told).facts["prompt"] == "a secretive kiwi"
    assert read_video(told).metadata["negative_prompt"] == "a loud emu"


def test_a_changed_byte_is_noticed(tmp_path, signer):
    path = save(tmp_path / "a.mp4", signer)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    for place in (start, (start + len(data)) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        manifest = read_manifest(path)
        assert manifest.state == "tampered"
        assert manifest.problems == ("assertion.bmffHash.mismatch",)
    claim = data.index(b"trainedAlgorithmicMedia")
    path.write_bytes(data[:claim] + b"T" + data[claim + 1 :])
    assert read_manifest(path).state == "tampered"
    path.write_bytes(
        data[: data.index(b"uuid") + 30] + bytes(200) + data[data.index(b"uuid") + 230 :]
    )
    assert read_manifest(path).state == "tampered"  # no manifest that could be read


def test_a_plain_video_has_neither(tmp_path):
    save_video(tmp_path / "a.mp4", frames(), fps=6.0, metadata=FACTS)
    report = inspect(tmp_path / "a.mp4")
    assert report.manifest.state == "none" and not report.watermark.found


def test_an_enlarged_video_names_what_it_was_made_from(tmp_path, signer):
    first = save(tmp_path / "a.mp4", signer)
    second = read_manifest(save(tmp_path / "b.mp4", signer, source=first))
    assert second.state == "valid"
    assert second.actions == ("c2pa.opened", "c2pa.edited", "c2pa.watermarked.unbound")
    assert second.source_type == "compositeWithTrainedAlgorithmicMedia"
    data = bytearray(first.read_bytes())
    data[data.index(b"uuid") + 30 : data.index(b"uuid") + 230] = bytes(200)
    first.write_bytes(data)
    assert read_manifest(save(tmp_path / "c.mp4", signer, source=first)).state == "valid"


def test_signing_replaces_the_file_when_it_is_whole(tmp_path, signer):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, height=192, width=320, fps=6.0) as writer:
        writer.write(frames())
    sign(path, signer, FACTS)
    manifest = read_manifest(path)
    assert manifest.actions == ("c2pa.created",)
    assert manifest.facts == {"seed": 7, "model": "mini"}
    before = path.read_bytes()
    with (
        pytest.raises(KeyboardInterrupt),
        Marks(signer).writer(path, height=192, width=320, fps=6.0) as writer,
    ):
        writer.write(frames())
        raise KeyboardInterrupt
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.mp4"]


def test_keys_are_made_once_and_are_private(folder, signer):
    assert Signer.local(folder) == signer
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        name: 0o600 for name in ("key.pem", "chain.pem", "root.pem")
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert repr(signer) == "Signer(algorithm=b'es256')"


def test_processes_that_begin_at_once_get_one_key(tmp_path):
    code = """
import pathlib, sys, time
from imagen_video.signer import Signer
folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / me).touch()
while len(list(folder.glob("ready*"))) < 4: time.sleep(0.001)
print(Signer.local(folder / "keys"), Signer.local(folder / "keys").certificates)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, f"ready{i}"], stdout=subprocess.PIPE
        )
        for i in range(4)
    ]
    said = {process.communicate(timeout=60)[0] for process in processes}
    assert len(said) == 1 and b"BEGIN CERTIFICATE" in said.pop()
    assert {path.name for path in tmp_path.iterdir()} == {"keys", *(f"ready{i}" for i in range(4))}


def test_a_folder_of_other_things_is_not_touched(tmp_path):
    (tmp_path / "note").touch()
    with pytest.raises(ValueError, match="new or empty folder"):
        Signer.local(tmp_path)
    assert os.listdir(tmp_path) == ["note"]


def own(folder, private, *, by=None):
    """Files of a key and of its certificate by a root, or by itself."""
    root = ec.generate_private_key(ec.SECP256R1())
    names = [
        certificate.subject
        for certificate in load_pem_x509_certificates(keys._new_pair()["chain.pem"])
    ]
    chain = [keys._issue(names[0], private, names[1], root)]
    chain.append(keys._issue(names[1], root, names[1], root))
    key, certificates = folder / "own-key.pem", folder / "own.pem"
    key.write_bytes(keys._pem(by or private))
    certificates.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
    return key, certificates


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
def test_keys_of_ones_own(tmp_path, make):
    path = save(tmp_path / "a.mp4", Signer.of_files(*own(tmp_path, make())))
    assert read_manifest(path).state == "valid"


@pytest.mark.parametrize(
    ("purpose", "fits"),
    [("1.3.6.1.5.5.7.3.36", True), ("1.3.6.1.4.1.62558.2.1", True), ("1.3.6.1.5.5.7.3.1", False)],
)
def test_certificates_for_other_purposes(purpose, fits, monkeypatch):
    wanted = x509.ExtendedKeyUsage([x509.ObjectIdentifier(purpose)])
    monkeypatch.setattr(x509, "ExtendedKeyUsage", lambda _: wanted)
    made = keys._new_pair()
    signer = Signer(made["key.pem"], made["chain.pem"], b"es256")
    with nullcontext() if fits else pytest.raises(ValueError, match="certificate is invalid"):
        Marks(signer)


def test_what_cannot_sign_is_refused_before_the_video_is_made(tmp_path, signer):
    private, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    with pytest.raises(ValueError, match="does not match"):
        Marks(Signer.of_files(*own(tmp_path, private, by=other)))
    root = load_pem_x509_certificates(signer.certificates)[1].public_bytes(Encoding.PEM)
    with pytest.raises(ValueError, match="cannot sign"):
        Marks(Signer(signer.key, root, signer.algorithm))
    key, certificates = own(tmp_path, private)
    with pytest.raises(ValueError, match="no private key"):
        Signer.of_files(certificates, certificates)
    with pytest.raises(ValueError, match="no certificates"):
        Signer.of_files(key, key)
    key, certificates = own(tmp_path, ec.generate_private_key(ec.SECP256K1()))
    with pytest.raises(ValueError, match="C2PA signs with"):
        Signer.of_files(key, certificates)


def test_inspect_says_it_in_words_and_as_json(tmp_path, signer, folder):
    path = save(tmp_path / "a.mp4", signer)
    plain = run("inspect", path)
    assert plain.returncode == 0, plain.stderr
    for words in ("found: z", "valid: the file is as it was signed", "on no trust list", "seed 7"):
        assert words in plain.stdout
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.mp4").write_bytes(data)
    done = run("inspect", path, tmp_path / "b.mp4", "--json", "--trust", folder / "root.pem")
    first, second = json.loads(done.stdout)
    assert first["watermark"]["found"] and first["manifest"]["trusted"]
    assert first["manifest"]["state"] == "valid" and second["manifest"]["state"] == "tampered"


def test_generate_and_upscale_leave_both_traces(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    tiny.save_pretrained(tmp_path / "model")
    model = ("--model", tmp_path / "model", "--provenance")
    done = run("generate", "a shy kiwi", *model, "--until", "ssr2", "-o", tmp_path / "a.mp4")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "a.mp4", trust=tmp_path / "cache" / "c2pa" / "root.pem")
    assert manifest.trusted and manifest.facts["until"] == "ssr2"
    assert b"kiwi" not in (tmp_path / "a.mp4").read_bytes()
    done = run("upscale", tmp_path / "a.mp4", *model, "--tell-prompt", "--prompt", "a kiwi", "-o",
               tmp_path / "b.mp4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "b.mp4")
    assert manifest.actions[0] == "c2pa.opened" and manifest.facts["prompt"] == "a kiwi"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect",), "name a video"),
        (("inspect", "no.mp4"), "no.mp4"),
        (("inspect", "text.mp4"), "text.mp4"),
        (("generate", "a", "--c2pa-key", "k.pem"), "go with --provenance"),
        (("generate", "a", "--provenance", "--c2pa-key", "k.pem"), "go together"),
        (("upscale", "a.mp4", "--provenance", "--c2pa-key", "k", "--c2pa-cert", "k"), "'k'"),
        (("inspect", "a.mp4", "--trust", "text.mp4"), "no certificates"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("no video")
    save_video("a.mp4", frames(1), fps=6.0, metadata={})
    done = run(*words)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
