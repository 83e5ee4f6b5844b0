"""imagen-video inspect, and the options of what `generate` and `upscale` leave in a file."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

if TYPE_CHECKING:  # torch takes a second to import: only commands that need it pay
    from imagen_video.provenance import Manifest, Marks, Report
    from imagen_video.sampling import Writer


@dataclass(kw_only=True)
class Provenance:
    """Traces that tell where a video comes from."""

    provenance: bool = False
    """Watermark the video and sign a C2PA manifest into it, which leaves the prompt out."""
    tell_prompt: bool = False
    """With --provenance: the prompt goes into the file too."""
    c2pa_key: Path | None = None
    """Your own private key (PEM) instead of the one made here at the first use."""
    c2pa_cert: Path | None = None
    """Its certificate, and after it those that vouch for it (PEM)."""

    def writer(self, *, source: Path | None) -> "Writer":
        """How files are written: plainly, or with marks; `source` is what they are made from."""
        from imagen_video.video import VideoWriter

        marks = self.marks()
        return partial(marks.writer, source=source) if marks else VideoWriter

    def marks(self) -> "Marks | None":
        """What goes into every video, if anything."""
        if not self.provenance:
            if self.tell_prompt or self.c2pa_key or self.c2pa_cert:
                raise ValueError("--tell-prompt, --c2pa-key and --c2pa-cert go with --provenance")
            return None
        if (self.c2pa_key is None) != (self.c2pa_cert is None):
            raise ValueError("--c2pa-key and --c2pa-cert go together: give both or neither")
        from imagen_video.provenance import Marks
        from imagen_video.signer import Signer

        if self.c2pa_key and self.c2pa_cert:
            signer = Signer.of_files(self.c2pa_key, self.c2pa_cert)
        else:
            signer = Signer.local()
        return Marks(signer, prompt=self.tell_prompt)


@dataclass
class Inspect:
    """Say where videos come from: the mark in their pixels, the C2PA manifest in their file."""

    files: Positional[tuple[Path, ...]] = ()
    json: bool = False
    trust: Path | None = None
    """Certificates (PEM) of those whose word you take on who signed."""


def run_inspect(options: Inspect) -> None:
    from imagen_video.provenance import inspect

    if not options.files:
        raise ValueError("name a video to inspect")
    reports = (inspect(path, trust=options.trust) for path in options.files)
    if options.json:
        print(json.dumps([_as_json(report) for report in reports], indent=2))
        return
    for report in reports:
        print("\n".join(_lines(report, options.trust)))


def _as_json(report: "Report") -> dict[str, Any]:
    mark = report.watermark
    found = {"found": mark.found, "z": mark.z, "p": mark.p, "scale": mark.scale}
    return {"file": str(report.path), "watermark": found, "manifest": asdict(report.manifest)}


def _lines(report: "Report", trust: Path | None) -> list[str]:
    mark, manifest = report.watermark, report.manifest
    found = f"not found: z {mark.z:.1f}, p {mark.p:.1g}"
    if mark.found:
        found = f"found: z {mark.z:.1f}; of videos without it {mark.p:.0e} reach that at most"
    lines = [str(report.path), f"  watermark  {found}", f"  manifest   {_state(manifest)}"]
    if manifest.signer:
        lines.append(f"  signer     {manifest.signer}: {_trust(manifest, trust)}")
    if manifest.generator:
        lines.append(f"  says       {_says(manifest)}")
    return lines


def _state(manifest: "Manifest") -> str:
    problems = ", ".join(manifest.problems)
    return {
        "none": "none in this file",
        "valid": "valid: the file is as it was signed",
        "tampered": f"tampered with since it was signed ({problems})",
        "invalid": f"invalid ({problems})",
    }[manifest.state]


def _trust(manifest: "Manifest", trust: Path | None) -> str:
    if manifest.trusted:
        return f"{trust} vouches for this name"
    where = f"not vouched for by {trust}" if trust else "on no trust list"
    return f"{where}, so anyone may have taken this name"


def _says(manifest: "Manifest") -> str:
    kind = f", {manifest.source_type}" if manifest.source_type else ""
    facts = "; ".join(f"{name} {value}" for name, value in manifest.facts.items())
    return f"{manifest.generator}{kind}" + (f"; {facts}" if facts else "")
