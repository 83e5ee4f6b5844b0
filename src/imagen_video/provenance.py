"""Where a video comes from, told by itself: a watermark in its pixels and, around them, a C2PA
manifest (c2pa.org) that is signed and names the model. Nothing here asks the network."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from typing import Any, Literal

from imagen_video import __version__
from imagen_video.files import replacing
from imagen_video.signer import Signer, missing
from imagen_video.video import Frames, VideoWriter, probe_output
from imagen_video.watermark import Detection, detect_file, mark

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATION, SOURCE = "imagen-video.generation", "source"
"""The assertion that holds how the video was made, and the name of the video it was made from."""
UNASKED = ("prompt", "negative_prompt", "input", "source")
"""What the user typed: it goes into a file only when asked to."""
# What a certificate must be for, one of these: email protection, document signing, C2PA claims.
PURPOSES = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1"
SETTINGS = {
    "version": 1,
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
BLANK = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'


def _c2pa() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise missing(error) from error
    return c2pa


@dataclass(frozen=True)
class Marks:
    """What a video gets before it is shown to anyone; `prompt` puts the prompt into the file too.

    save_video("a.mp4", frames, fps=24.0, metadata=facts, writer=Marks(Signer.local()).writer)
    """

    signer: Signer
    prompt: bool = False

    def __post_init__(self):
        # What C2PA refuses about a certificate is to be known before a video is made.
        blank = _assertions({}, edited=False, marked=False)
        _write_signed(self.signer, blank, "image/svg+xml", io.BytesIO(BLANK), io.BytesIO())

    @contextmanager
    def writer(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        fps: float,
        metadata: Mapping[str, Any] | None = None,
        source: str | Path | None = None,
    ) -> Iterator[VideoWriter]:
        """A VideoWriter whose frames are marked; the file appears when it is signed.

        `source` is the video that was enlarged, if one was: the manifest then tells of an edit.
        """
        probe_output(path)
        facts = _public(metadata or {}, prompt=self.prompt)
        size = {"height": height, "width": width, "fps": fps}
        with replacing(path) as whole:
            unsigned = whole.with_suffix(".mp4")
            try:
                with _Marking(unsigned, **size, metadata=facts) as writer:
                    yield writer
                _sign(unsigned, self.signer, facts, source=source, marked=True)
                os.replace(unsigned, whole)
            finally:
                unsigned.unlink(missing_ok=True)


class _Marking(VideoWriter):
    def write(self, frames: Frames) -> None:
        super().write(mark(frames))


def sign(
    path: str | Path,
    signer: Signer,
    facts: Mapping[str, Any],
    *,
    source: str | Path | None = None,
    prompt: bool = False,
) -> None:
    """Put a manifest into an mp4: how it was made (`facts`, without what the user typed unless
    `prompt`, and without the spec of the cascade), and from which video if from one.

    The file is replaced when it is whole. A comment that is in it stays: see `Marks.writer`.
    """
    _sign(path, signer, _public(facts, prompt=prompt), source=source, marked=False)


def _sign(
    path: str | Path,
    signer: Signer,
    facts: Mapping[str, Any],
    *,
    source: str | Path | None,
    marked: bool,
) -> None:
    assertions = _assertions(facts, edited=source is not None, marked=marked)
    with replacing(path) as temporary, open(path, "rb") as given, open(temporary, "w+b") as made:
        _write_signed(signer, assertions, "video/mp4", given, made, source=source)


def _public(facts: Mapping[str, Any], *, prompt: bool) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if prompt or name not in UNASKED}


def _assertions(facts: Mapping[str, Any], *, edited: bool, marked: bool) -> dict[str, Any]:
    """What the manifest says, by C2PA's labels and ours."""
    kind = "compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia"
    making = {
        "action": "c2pa.edited" if edited else "c2pa.created",
        "digitalSourceType": SOURCE_TYPE + kind,
        "softwareAgent": {"name": str(facts.get("model", "imagen-video")), "version": __version__},
    }
    opening = {"action": "c2pa.opened", "parameters": {"ingredientIds": [SOURCE]}}
    marking = {"action": "c2pa.watermarked.unbound"}
    actions = [opening] * edited + [making] + [marking] * marked
    told = {k: v for k, v in facts.items() if k != "spec" and v is not None}
    return {"c2pa.actions.v2": {"actions": actions}, GENERATION: told}


def _write_signed(
    signer: Signer,
    assertions: Mapping[str, Any],
    format: str,
    given: Any,
    made: Any,
    *,
    source: str | Path | None = None,
) -> None:
    c2pa = _c2pa()
    definition = {
        "claim_generator_info": [{"name": "imagen-video", "version": __version__}],
        "format": format,
        "assertions": [
            {"label": label, "data": data, "created": True} for label, data in assertions.items()
        ],
    }
    try:
        known = c2pa.C2paSignerInfo(signer.algorithm, signer.certificates, signer.key, None)
        with (
            _context(c2pa) as context,
            c2pa.Signer.from_info(known) as native,
            c2pa.Builder(definition, context=context) as builder,
            open(source, "rb") if source else nullcontext() as parent,
        ):
            if parent:
                _add_source(builder, parent)
            builder.sign(native, format, given, made)
    except c2pa.C2paError as error:
        raise ValueError(f"cannot sign with this key and certificate: {error}") from error


def _add_source(builder: Any, file: Any) -> None:
    """Name the video that was enlarged, with its own manifest if it has one that can be read."""
    told = {"title": SOURCE, "label": SOURCE, "relationship": "parentOf"}
    try:
        builder.add_ingredient(told, guess_type(file.name)[0] or "video/mp4", file)
    except _c2pa().C2paError:
        builder.add_ingredient(told, "application/octet-stream", io.BytesIO())


def _context(c2pa: Any, trust: str | Path | None = None) -> Any:
    purposes = {"trust_config": PURPOSES}
    anchors = {"trust_anchors": Path(trust).read_text()} if trust else {}
    try:
        return c2pa.Context(c2pa.Settings.from_dict({**SETTINGS, "trust": {**purposes, **anchors}}))
    except c2pa.C2paError as error:
        raise ValueError(f"{trust} holds no certificates in PEM: {error}") from error


@dataclass(frozen=True)
class Manifest:
    """What C2PA's own reader says of a file: whether it is as it was signed (`problems`: its codes
    for what is not), by whom, and whether a list of trusted signers has that name; `generator`,
    `actions` and `facts` are what it says itself."""

    state: Literal["none", "valid", "tampered", "invalid"] = "none"
    problems: tuple[str, ...] = ()
    signer: str = ""
    trusted: bool = False
    generator: str = ""
    actions: tuple[str, ...] = ()
    source_type: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Both traces of one file."""

    path: Path
    watermark: Detection
    manifest: Manifest


def inspect(path: str | Path, *, trust: str | Path | None = None) -> Report:
    """The watermark and the manifest of a video; ValueError if it is none.

    `trust` is a PEM file of certificates: only signers that one of these vouches for are trusted.
    """
    return Report(Path(path), detect_file(path), read_manifest(path, trust=trust))


def read_manifest(path: str | Path, *, trust: str | Path | None = None) -> Manifest:
    """The manifest in a file, verified against its bytes."""
    c2pa = _c2pa()
    absent = (c2pa.C2paError.NotSupported, c2pa.C2paError.RemoteManifest)
    with _context(c2pa, trust) as context:
        try:
            reader = c2pa.Reader.try_create(path, context=context)
        except absent:
            return Manifest()
        except c2pa.C2paError as error:
            return Manifest("tampered", (str(error),))
        if reader is None:
            return Manifest()
        with reader:
            return _told(reader)


def _told(reader: Any) -> Manifest:
    active, results = reader.get_active_manifest(), reader.get_validation_results()
    codes = [failure["code"] for failure in results["activeManifest"]["failure"]]
    problems = tuple(code for code in codes if code != "signingCredential.untrusted")
    state = "valid"
    if problems:
        state = "tampered" if any(code.endswith("ismatch") for code in problems) else "invalid"
    data = {assertion["label"]: assertion["data"] for assertion in active["assertions"]}
    actions = data.get("c2pa.actions.v2", data.get("c2pa.actions", {})).get("actions", [])
    types = [action["digitalSourceType"] for action in actions if "digitalSourceType" in action]
    by, maker = active.get("signature_info", {}), active.get("claim_generator_info", [{}])[0]
    return Manifest(
        state,
        problems,
        ", ".join(by[name] for name in ("issuer", "common_name") if by.get(name)),
        reader.get_validation_state() == "Trusted",
        f"{maker.get('name', '')} {maker.get('version', '')}".strip(),
        tuple(action["action"] for action in actions),
        types[0].rpartition("/")[2] if types else "",
        data.get(GENERATION, {}),
    )
