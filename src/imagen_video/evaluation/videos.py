"""A folder of videos, made by anything, as an evaluation."""

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagen_video.distributed import Ranks
from imagen_video.evaluation.asked import (
    KNOWN,
    EvaluationSpec,
    counts_of,
    reference_of,
    settings_for,
    tools_of,
)
from imagen_video.evaluation.prompts import STICKERS, Prompt, facts_by_text, prompts_of
from imagen_video.evaluation.records import settings_of
from imagen_video.evaluation.run import Column, Evaluation
from imagen_video.metrics.features import digest
from imagen_video.video import VideoFormat, read_video, video_info

OTHERS = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".webm"}


def of_videos(
    folder: Path, spec: EvaluationSpec, out: Path, ranks: Ranks
) -> tuple[Evaluation, dict[str, Any]]:
    """Everything recorded of the .mp4 of a folder, and the settings it was measured with."""
    paths = _videos_in(folder) if folder.is_dir() else []
    if len(paths) < 2:
        raise ValueError(
            f"{folder} holds {'one video' if paths else 'no cascade and no videos'}: give 'mini', "
            "a folder of save_pretrained, or a folder of two or more .mp4"
        )
    format = _one_format(paths)
    if spec != replace(spec, count=None, seeds=1, own=None, until=None, steps=None, guidance=None):
        raise ValueError(
            f"{folder} holds videos, made already: leave out count, seeds and the like"
        )
    prompts = [_told(path) for path in paths]
    if spec.prompts != STICKERS:
        prompts = _given(spec.prompts, paths, prompts)
    if list(spec.reference) == [STICKERS] and not any(KNOWN & set(p.facts) for p in prompts):
        raise ValueError(
            f"no prompt of {folder} is known in the sticker world, whose clips the videos would be "
            "compared with: give --reference, or --prompts with their facts"
        )
    paths, prompts = _in_turn(paths, prompts)
    spec = replace(spec, seeds=len(paths) // len(prompts))
    reference = reference_of(spec.reference, prompts, out)
    tools, counts = tools_of(spec, prompts), counts_of(prompts, spec, reference, own=False)
    evaluation = Evaluation(
        columns=[Column("videos", format)],
        prompts=prompts,
        counts=counts,
        tools=tools,
        reference=reference,
        out=out,
        ranks=ranks,
    )
    settings = settings_of(
        tools,
        **settings_for(spec, prompts, evaluation),
        model=str(folder),
        weights=digest(*paths),
        pixels="decoded from mp4",
    )
    evaluation.settle(settings)
    for i in evaluation.missing("cascade", "videos", len(paths), "videos"):
        clip = read_video(paths[i])
        if len(clip.frames) != format.frames:
            raise ValueError(
                f"{paths[i]} says that it has {format.frames} frames, and {len(clip.frames)} can "
                "be decoded: write it anew, or remove it"
            )
        evaluation.keep_video(i, "videos", clip.frames, clip.fps)
        asked = evaluation.prompt(i)
        facts = {"prompt": asked.text, "asked": dict(asked.facts)}
        tools.record(clip.frames, **facts).save(evaluation.path("cascade", "videos", i))
    evaluation.make_references()
    return evaluation, settings


def _numbered(path: Path) -> list[str | int]:
    """By which video-2 comes before video-10."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)]


def _given(name: str, paths: Sequence[Path], told: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a file, one a video; ValueError where they are of other videos."""
    prompts = prompts_of(name, None)
    if len(prompts) != len(paths):
        raise ValueError(
            f"{name} holds {len(prompts)} prompts and {paths[0].parent} {len(paths)} videos: "
            "give one a video, in the order of their names"
        )
    for path, prompt, own in zip(paths, prompts, told, strict=True):
        if own.text and own.text != prompt.text:
            raise ValueError(
                f"{path.name} is of {own.text!r} as the file beside it says, and of "
                f"{prompt.text!r} by {name}: order the prompts as the names of the videos"
            )
    return prompts


def _in_turn(paths: list[Path], prompts: list[Prompt]) -> tuple[list[Path], list[Prompt]]:
    """Videos of every prompt once, then again, and the different prompts: videos of one prompt are
    alike, and intervals draw prompts. As they come, with a warning, where some have more."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt.text, []).append(place)
    if len(places) == len(prompts) or "" in places:
        return paths, prompts
    if len({len(each) for each in places.values()}) > 1:
        warnings.warn(
            "some prompts have more videos than others: intervals take all videos for independent",
            stacklevel=2,
        )
        return paths, prompts
    order = [place for turn in zip(*places.values(), strict=True) for place in turn]
    return [paths[i] for i in order], [prompts[i] for i in order[: len(places)]]


def _videos_in(folder: Path) -> list[Path]:
    """The .mp4 of a folder in order, with a warning where it has videos of other kinds."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".mp4"]
    others = [path.name for path in folder.iterdir() if path.suffix.lower() in OTHERS]
    if others:
        warnings.warn(
            f"{len(others)} files of {folder} are left out, {sorted(others)[0]} among them: only "
            ".mp4 are read",
            stacklevel=3,
        )
    return sorted(paths, key=_numbered)


def _one_format(paths: Sequence[Path]) -> VideoFormat:
    """Of all videos; ValueError, before any is recorded, where there are several."""
    infos = map(video_info, paths)
    formats = [VideoFormat(info.frames, info.height, info.width, info.fps) for info in infos]
    for path, format in zip(paths, formats, strict=True):
        if format != formats[0]:
            raise ValueError(
                f"{path.name} is {format} and {paths[0].name} is {formats[0]}: put videos of one "
                "size, length and rate into a folder"
            )
    return formats[0]


def _told(path: Path) -> Prompt:
    """The prompt of a video: in the .json that `generate` writes beside it, or in a .txt."""
    text, beside = "", path.with_suffix(".json")
    if beside.is_file():
        try:
            found = json.loads(beside.read_text("utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{beside} is no JSON ({error}): mend or remove it") from error
        told = found.get("prompt") if isinstance(found, dict) else None
        text = told if isinstance(told, str) else ""
    elif path.with_suffix(".txt").is_file():
        text = path.with_suffix(".txt").read_text("utf-8-sig", errors="replace").strip()
    return Prompt(text, facts_by_text().get(text, {}))
