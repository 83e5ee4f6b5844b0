"""One stage trained, from a preset and the names of data to a folder."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import torch

from imagen_video.data.bad_samples import BAD_SAMPLES, BadSamples
from imagen_video.data.clips import Source
from imagen_video.data.library import Part
from imagen_video.data.mix import Mix, read_apart, surviving
from imagen_video.data.sources import captions_in, open_source, rows_of
from imagen_video.data.stickers import prerender
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.data.stickers.source import StickerSource
from imagen_video.distributed import Ranks, device_of, started
from imagen_video.files import LOCK, alone_in
from imagen_video.spec import CascadeSpec, StageSpec, TextSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.text.cache import EmbeddingTable, load_keeping
from imagen_video.text.encoder import TextEncoder, kind_and_length, load_encoder
from imagen_video.training.ahead import Data
from imagen_video.training.checkpoint import latest
from imagen_video.training.engine import initialise_from
from imagen_video.training.lora import Lora
from imagen_video.training.run import RunSpec, with_steps
from imagen_video.training.sheets import SheetDrawer, what_to_show
from imagen_video.training.student import Lesson, Student
from imagen_video.training.trainer import Trainer
from imagen_video.weights import load_stage, without_side, working_dtype

# So many steps, or captions, show what captions are like.
FITTED_STEPS, FITTED_CAPTIONS = 64, 4096
# The folder of embeddings in what is carried along.
CAPTIONS = "captions"
# So many batches of held-out clips say how good a stage is.
VALIDATION_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Which stage is trained, on what and where. `data` are names for `open_source`; more than
    `max_bad` (a share) of broken files end the run; `shards` is for `distributed.started`. With
    `lora` adapters of that rank are trained over `init_from`, instead of weights that it starts;
    with a `lesson` the stage in `teacher` gives it, and one in `previous` makes its low-resolution
    videos."""

    stage: str
    out: Path
    data: tuple[str, ...] = ("stickers",)
    steps: int | None = None
    init_from: Path | None = None
    lora: int | None = None
    cropping: Literal["random", "centre"] = "random"
    max_bad: float = 0.05
    lesson: Lesson | None = None
    teacher: Path | None = None
    previous: Path | None = None
    device: str = "cpu"
    shards: int = 1

    def __post_init__(self):
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share of 0 to 1, got {self.max_bad}")

    @cached_property
    def adapters(self) -> Lora | None:
        """ValueError where there is nothing for them to adapt."""
        if self.lora is None:
            return None
        if self.init_from is None:
            raise ValueError("--lora trains adapters of a trained stage: give --init-from FOLDER")
        return Lora.over(self.init_from, self.lora)

    @property
    def beside(self) -> Path | None:
        """The teacher that a lesson leaves as it is."""
        return self.teacher if self.lesson is not None and self.lesson.side is not None else None


def train_stage(cascade: CascadeSpec, job: JobSpec, run: RunSpec) -> int:
    """Train a stage, or go on where `job.out` stopped; returns the step reached."""
    with (
        started(job.device, shards=job.shards) as ranks,
        alone_in(job.out) if ranks.first else nullcontext(),
    ):
        ranks.wait()
        if ranks.agreed(not (job.out / LOCK).exists())[0]:
            raise ValueError(f"every process must see the same {job.out}: it is not shared")
        return _train(cascade, job, run, ranks)


def _train(cascade: CascadeSpec, job: JobSpec, run: RunSpec, ranks: Ranks) -> int:
    spec, lora = with_steps(cascade.stage(job.stage), job.steps), job.adapters
    if spec.unet.side is not None and job.lesson is None:
        raise ValueError(
            f"stage {spec.name!r} has a side network, which is of weights that stay: train it with "
            "guided and side null, then teach guidance (distill --guidance-only)"
        )
    encoder = encoder_of(cascade.text, run, ranks.device)
    data = _data(spec, job, run, ranks, encoder)
    fresh = ranks.told(latest(job.out)) is None  # files come late to other machines
    if ranks.first:
        if isinstance(encoder, EmbeddingTable):  # rather now than amid the run
            encoder.check(captions_in(data.mix.source))
        stage = _stage(spec, job, run, data, fresh=fresh)
    else:  # `spread` sends the weights
        stage = Stage(spec, build_unet(spec, device="meta"))
    ranks.wait()  # for the first, which may have read captions for a while
    if job.lesson is not None:
        teacher, previous = (
            load_stage(folder, device=ranks.device, dtype=working_dtype(ranks.device))
            if folder
            else None
            for folder in (None if job.beside else job.teacher, job.previous)
        )
        teacher = teacher and without_side(teacher)
        stage = Student(spec, stage.unet, teacher, job.lesson, previous)
    trainer = Trainer(stage, data, job.out, run, ranks=ranks, lora=lora)
    if job.lesson is not None and fresh:
        much = trainer.validated()  # what there is to learn
        if trainer.log is not None:
            trainer.log.write({"step": 0, "validation": much})
    drawer = None
    if ranks.first and data.validation is not None:
        held_out = data.validation.source
        stickers = job.data == ("stickers",)
        shown = what_to_show(spec, held_out, stickers=stickers, workers=run.workers)
        drawer = SheetDrawer(spec, encoder, job.out / "sheets", shown, step=lambda: trainer.step)
    return trainer.run(drawer)


def encoder_of(text: TextSpec, run: RunSpec, device: torch.device) -> TextEncoder:
    """What embeds the captions of a run, in training and in its sheets."""
    if run.captions is None:
        # A T5 may be larger than what is trained: it leaves a GPU to it, and keeps its answers.
        place = "cpu" if text.encoder == "t5" else str(device)
        # The encoder is frozen: half precision moves its embeddings by less than a paraphrase does.
        # But by the batch that a caption is in, too: many processes would not train as one.
        dtype = torch.float32 if run.precision == "fp32" else working_dtype(place)
        return _frozen(text, dtype, place)
    table = EmbeddingTable.load(run.captions)
    if table.dim != text.dim:
        raise ValueError(
            f"{run.captions} has {table.dim} features a token ({table.name}), the networks "
            f"expect {text.dim}: give embeddings of their own encoder"
        )
    kind, length = kind_and_length(table)
    if length != text.length or (kind == "minilm") != (text.encoder == "minilm"):
        raise ValueError(
            f"{run.captions} has embeddings of {kind} of up to {length} tokens a caption, the "
            f"networks read {text.name or text.encoder} of {text.length}: give those"
        )
    return table


@lru_cache(maxsize=1)
def _frozen(text: TextSpec, dtype: torch.dtype, place: str) -> TextEncoder:
    """Loaded once for all rounds of a distillation: a T5 can take minutes."""
    return load_keeping(text, dtype=dtype, device=place)


def source_of(job: JobSpec, run: RunSpec, part: Part) -> Source:
    """The training or the held-out part of a job's data."""
    bad = BadSamples(job.out / BAD_SAMPLES, job.max_bad, part=part)
    cropping = job.cropping if part == "train" else "centre"
    return open_source(job.data, seed=run.seed, bad=bad, cropping=cropping, part=part)


def _data(spec: StageSpec, job: JobSpec, run: RunSpec, ranks: Ranks, encoder: TextEncoder) -> Data:
    share = {"rank": ranks.rank, "ranks": ranks.ranks}
    steps = spec.train.steps
    mix = Mix(source_of(job, run, "train"), spec, seed=run.seed, steps=steps, **share)
    held_out = source_of(job, run, "test")
    validation = Mix(held_out, spec, seed=run.seed, steps=VALIDATION_STEPS, **share)
    return Data(mix, encoder, validation)


def _stage(spec: StageSpec, job: JobSpec, run: RunSpec, data: Data, *, fresh: bool) -> Stage:
    """The stage as it starts; its weights matter in a fresh run, and always where they stay."""
    torch.manual_seed(run.seed)
    if job.adapters is not None:
        return job.adapters.load_base(spec)
    stage = Stage(spec)
    copied: list[str] = []
    if job.beside is not None:  # what is frozen is in no checkpoint
        copied += initialise_from(stage, job.beside)
    if fresh and job.init_from is not None and job.init_from != job.beside:
        copied += initialise_from(stage, job.init_from, only="side." if job.beside else "")
    if fresh and copied:
        count = len(stage.unet.state_dict())
        print(f"{len(copied)} of {count} weights are those of {job.init_from}", file=sys.stderr)
    if not fresh and job.init_from is not None and job.lesson is None:
        print(f"{job.out} goes on; --init-from is of its first step", file=sys.stderr)
    if fresh and "text_in.weight" not in copied:
        # Of whole batches, however many processes share them.
        mix = Mix(data.mix.source, spec, seed=run.seed, steps=spec.train.steps)
        fit_text(stage, mix, data.encoder, workers=run.workers)
    return stage


def fit_text(stage: Stage, mix: Mix, encoder: TextEncoder, *, workers: int) -> None:
    """Let a fresh network's `text_in` whiten the captions of the first batches."""
    if stage.unet.text_in is None:
        return
    captions: set[str] = set()
    read = read_apart(mix.captions, range(min(FITTED_STEPS, len(mix))), workers=workers)
    with surviving(read):
        for said in read:
            captions.update(said)
            if len(captions) >= FITTED_CAPTIONS:
                break
    stage.unet.text_in.fit(torch.cat(encoder(sorted(captions)).rows()).float())


def carry_along(cascade: CascadeSpec, name: str, out: Path, *, steps: int, seed: int) -> Path:
    """Write into `out` what the first `steps` of training stage `name` need beyond torch: every
    sticker rendered, and the embeddings of all captions of clips and sample sheets.

    For machines without drawing tools and text encoder. Returns the folder of captions.
    """
    spec = cascade.stage(name)
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    prerender(out)
    texts = {row["prompt"] for row in eval_prompts()}
    held_out = StickerSource(seed, part="test")
    shown = what_to_show(spec, held_out, stickers=True, workers=0)
    texts |= {caption for _, caption in shown.clips}
    for source, count in ((StickerSource(seed), steps), (held_out, VALIDATION_STEPS)):
        mix = Mix(source, spec, seed=seed, steps=count)
        for step in range(count):
            texts.update(*mix[step].captions)
    encoder = load_encoder(cascade.text, dtype=torch.bfloat16)
    EmbeddingTable.write(encoder, texts, out / CAPTIONS)
    return out / CAPTIONS


def embed_captions(
    cascade: CascadeSpec, names: Sequence[str], out: Path, *, device: str = "cpu"
) -> int:
    """Encode every caption of folders, manifests or tars, and the empty one, into `out`, for
    `RunSpec.captions`; returns how many different ones there are. Called again, it goes on."""
    texts = {""}
    for name in names:
        texts.update(row.caption for row in rows_of(name))
    place = str(device_of(device))
    encoder = load_encoder(cascade.text, dtype=torch.bfloat16, device=place)
    EmbeddingTable.write(encoder, texts, out / CAPTIONS)
    return len(texts)
