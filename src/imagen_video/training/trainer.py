"""Training one stage in one process (paper section 10; defaults of our scale in `TrainSpec`)."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from imagen_video.data.mix import Batch, Mix, batches
from imagen_video.files import replacing
from imagen_video.spec import StageSpec, TrainSpec
from imagen_video.spec_json import from_json, to_json
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder
from imagen_video.training.checkpoint import load_checkpoint, save_checkpoint
from imagen_video.training.ema import EMA
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import to_float
from imagen_video.weights import load_weights, save_stage

# So many steps in a row without a finite gradient end a run: it will not recover.
HOPELESS = 50


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run does besides the stage's own `TrainSpec`. `minutes` only stops early; `captions`
    is a file of embeddings read instead of running the text encoder."""

    seed: int = 0
    minutes: float | None = None
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    log_every: int = 20
    workers: int = 1
    device: str = "cpu"
    captions: Path | None = None

    def __post_init__(self):
        for name in ("save_minutes", "sheet_minutes", "log_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


class Every:
    """Answers yes once every so many minutes."""

    def __init__(self, minutes: float):
        self.seconds, self.last = 60 * minutes, time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        due = now - self.last >= self.seconds
        self.last = now if due else self.last
        return due


class Trainer:
    """Trains `stage` on `mix` into `out`; a second run on the same folder goes on exactly.

    `out` holds stage.json and model.safetensors (the average, ready to sample),
    checkpoint.safetensors (resume state), log.jsonl and sheets/. Equal threads give equal weights.
    """

    def __init__(self, stage: Stage, mix: Mix, encoder: TextEncoder, out: Path, run: RunSpec):
        out.mkdir(parents=True, exist_ok=True)
        self.stage, self.mix, self.encoder, self.out, self.run_spec = stage, mix, encoder, out, run
        self.train: TrainSpec = stage.spec.train
        stage.unet.to(run.device).train()
        self.ema = EMA(stage.unet, self.train.ema)
        self.optimizer = torch.optim.AdamW(
            stage.unet.parameters(),
            lr=self.train.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.train.weight_decay,
            fused=True,
        )
        for left_over in out.glob(".*.part"):  # of a run that was killed while it saved
            left_over.unlink()
        facts = load_checkpoint(out, stage.unet, self.ema, self.optimizer)
        self.step = self._resume(facts) if facts else 0
        self._cut_log()
        self.skipped = self.skipped_in_a_row = 0

    def _resume(self, facts: dict) -> int:
        if facts["seed"] != self.run_spec.seed:
            raise ValueError(
                f"{self.out} was trained with seed {facts['seed']}, not {self.run_spec.seed}: "
                "give that seed, or another --out folder"
            )
        before, now = from_json(StageSpec, facts["spec"]), self.stage.spec
        changed = [f.name for f in fields(now) if getattr(before, f.name) != getattr(now, f.name)]
        if set(changed) - {"sampler"}:  # sampling another way changes nothing of the training
            raise ValueError(
                f"{self.out} was trained with another {', '.join(changed)} of stage "
                f"{before.name!r}: give the same, or another --out with --init-from {self.out}"
            )
        return facts["step"]

    def run(self, draw_sheet: Callable[[Stage], None] | None = None) -> int:
        """Train to the end of the schedule or of the minutes; returns the step reached.

        `draw_sheet` is called at intervals with a stage that has the averaged weights.
        """
        run, start = self.run_spec, time.monotonic()
        time_to_save, time_to_draw = Every(run.save_minutes), Every(run.sheet_minutes)
        out_of_time = Every(math.inf if run.minutes is None else run.minutes)
        progress = tqdm(total=self.train.steps, initial=self.step, unit="step")
        with noting_interrupt() as interrupted:
            for batch in batches(self.mix, start=self.step, workers=run.workers):
                loss, norm = self._step(batch)
                progress.update()
                if self.step % run.log_every == 0:
                    self._log(loss, norm, batch, progress, time.monotonic() - start)
                if time_to_save():
                    self.save()
                if draw_sheet and time_to_draw():
                    draw_sheet(self.averaged())
                if out_of_time() or interrupted():
                    break
        progress.close()
        self.save()
        if draw_sheet and not interrupted():
            draw_sheet(self.averaged())
        return self.step

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.run_spec.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.train.learning_rate * rate_at(self.step, self.train)
        # Noise, dropout and levels are functions of (seed, step): nothing to save, exact resume.
        generator = torch.Generator(device).manual_seed(self.run_spec.seed * 1_000_003 + self.step)
        cond = self._conditioning(batch)
        video = to_float(batch.video.to(device))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = self.stage.loss(video, cond, generator).value
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.stage.unet.parameters(), self.train.grad_clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update(self.stage.unet, self.step)
            self.skipped_in_a_row = 0
        else:
            self._skip()
        self.step += 1
        return loss.detach(), norm

    def _skip(self) -> None:
        """Leave out a step whose gradient is not finite, but not for ever."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == HOPELESS:
            raise ValueError(
                f"the gradient was not finite in the last {HOPELESS} steps: go on from the last "
                f"checkpoint of {self.out} with a lower learning rate"
            )

    def _conditioning(self, batch: Batch) -> Conditioning:
        unique = sorted({caption for captions in batch.captions for caption in captions})
        embedding = self.encoder(unique)
        row = {caption: i for i, caption in enumerate(unique)}
        index = torch.tensor([[row[c] for c in captions] for captions in batch.captions])
        device = self.run_spec.device
        return Conditioning(
            embedding.tokens.float()[index].to(device),
            embedding.mask[index].to(device),
            batch.is_video.to(device),
            frame_index=batch.frame_index.to(device),
        )

    def _log(
        self, loss: Tensor, norm: Tensor, batch: Batch, progress: tqdm, seconds: float
    ) -> None:
        done = self.step - progress.initial
        facts = {
            "step": self.step,
            "loss": round(loss.item(), 6),
            "grad_norm": round(norm.item(), 4),
            "lr": self.train.learning_rate * rate_at(self.step, self.train),
            "skipped": self.skipped,
            "clips_per_second": round(done * len(batch.video) / seconds, 3),
        }
        progress.set_postfix(loss=facts["loss"], clips_s=facts["clips_per_second"])
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps(facts) + "\n")

    def _cut_log(self) -> None:
        """Leave out what a killed run did after its last checkpoint: it is done again."""
        path = self.out / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        whole = [line for line in lines if line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= self.step]
        if kept != lines:
            with replacing(path) as new:
                new.write_text("".join(f"{line}\n" for line in kept))

    def averaged(self) -> Stage:
        """A stage of its own with the averaged weights."""
        stage = Stage(self.stage.spec)
        stage.unet.to(self.run_spec.device).requires_grad_(False).eval()
        self.ema.copy_to(stage.unet)
        return stage

    def save(self) -> None:
        """Checkpoint, and the averaged weights as a stage folder."""
        seed, spec = self.run_spec.seed, to_json(self.stage.spec)
        facts = {"step": self.step, "seed": seed, "spec": spec}
        save_checkpoint(self.out, self.stage.unet, self.ema, self.optimizer, facts=facts)
        save_stage(self.averaged(), self.out, dtype=torch.bfloat16)


@contextmanager
def noting_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, to be asked between steps: half a step would spoil the resume.

    A second Ctrl-C interrupts at once.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def note(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def rate_at(step: int, train: TrainSpec) -> float:
    """Linear warm-up, constant, linear cool-down to 0 over the last `cooldown` steps."""
    up = min(1.0, (step + 1) / max(1, train.warmup))
    down = min(1.0, (train.steps - step) / max(1, train.cooldown))
    return min(up, down)


def initialise_from(stage: Stage, folder: Path) -> Sequence[str]:
    """Copy every weight of a saved stage whose name and shape match; returns the names."""
    source = load_weights(folder)
    own = stage.unet.state_dict()
    matching = [k for k, v in source.items() if k in own and own[k].shape == v.shape]
    if not matching:
        raise ValueError(f"no weight of {folder} fits stage {stage.spec.name!r}")
    stage.unet.load_state_dict(own | {name: source[name].to(own[name]) for name in matching})
    return matching


def with_steps(spec: StageSpec, steps: int | None) -> StageSpec:
    """The stage with another length of schedule, whose cool-down shrinks with it."""
    if steps is None:
        return spec
    cooldown = min(spec.train.cooldown, steps // 4)
    return replace(spec, train=replace(spec.train, steps=steps, cooldown=cooldown))
