"""Training one stage, in one process or many (paper section 10; defaults of our scale in
`TrainSpec`)."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from imagen_video.data.bad_samples import count_bad
from imagen_video.data.mix import Batch, batches, surviving
from imagen_video.diffusion.objective import Draws, Loss, Objective, fixed_time
from imagen_video.distributed import Ranks, gathered, synchronise, telling_lost
from imagen_video.info import matrix_rate
from imagen_video.spec import TrainSpec
from imagen_video.spec_json import to_json
from imagen_video.stage import Stage
from imagen_video.text.encoder import kind_and_length
from imagen_video.training import checkpoint, engine
from imagen_video.training.ahead import Data, Ready, ahead, make_ready
from imagen_video.training.dry import training_flops
from imagen_video.training.ema import EMA
from imagen_video.training.guard import ROLLBACKS, Exploded, Guard, Verdict
from imagen_video.training.lora import ADAPTER, Lora
from imagen_video.training.resume import refuse_other
from imagen_video.training.run import Every, RunSpec, keeping, noting_interrupt, rate_at
from imagen_video.training.watch import Log, Watch
from imagen_video.video import to_float
from imagen_video.weights import save_stage, working_dtype

# Times at which the validation loss is measured: from little noise to nothing but noise.
VALIDATION_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Trainer:
    """Trains `stage` on `data` into `out`; a second run on the same folder goes on exactly.

    `out` holds stage.json and model.safetensors (the average, ready to sample), or with `lora`
    adapter/ (peft's), checkpoints/ (resume state), log.jsonl and sheets/. Equal threads give equal
    weights. In a run of many processes all of them build a trainer and call the same methods; the
    first alone writes.
    """

    def __init__(
        self,
        stage: Stage,
        data: Data,
        out: Path,
        run: RunSpec,
        *,
        ranks: Ranks | None = None,
        lora: Lora | None = None,
    ):
        self.stage, self.data, self.out, self.run_spec = stage, data, out, run
        self.lora, self.ranks = lora, ranks or Ranks()
        if lora is not None:
            lora.adapt(stage.unet)
        self.train: TrainSpec = stage.spec.train
        run.check_shares(data.mix.total, self.ranks.ranks)
        bf16 = run.half(self.ranks.device)
        engine.prepare(
            stage.unet, self.ranks, bf16=bf16, recompute=run.recompute, compiled=run.compiled
        )
        self.ema = EMA(stage.unet, self.train.ema)
        self.optimizer = engine.make_optimizer(self.train, stage.unet)
        self.guard, self.step = Guard(), 0
        self.saver = checkpoint.Saver(out, self.ranks, keep=run.keep)
        found = self._newest()
        if found is not None:
            facts = checkpoint.facts_of(found)
            refuse_other(out, facts, self._facts(facts["step"]))
            checkpoint.load(found, stage.unet, self.ema, self.optimizer)
            self.guard.restore(facts["guard"])
            self.step = facts["step"]
        self._saved = self.step if found is not None else -1
        self.log = None
        if self.ranks.first:
            self.log = Log(out, step=self.step, tensorboard=run.tensorboard)

    def _newest(self, back: int = 0) -> Path | None:
        """The newest checkpoint, or one so many `back`, as the first sees it: files come late."""
        found = self.ranks.told(checkpoint.latest(self.out, back))
        if self.ranks.agreed(found is not None and not found.is_dir())[0]:
            raise ValueError(f"every process must see {self.out}: not all find {found}")
        return found

    def run(self, draw_sheet: Callable[[Stage], Path] | None = None) -> int:
        """Train to the end of the schedule or of the minutes; returns the step reached.

        `draw_sheet` is called at intervals, by the first process, with a stage that has the
        averaged weights.
        """
        run, first, _ = self.run_spec, self.ranks.first, self._held_out  # read first: it may fail
        time_to_save, time_to_draw = Every(run.save_minutes), Every(run.sheet_minutes)
        out_of_time = Every(math.inf if run.minutes is None else run.minutes)
        progress = tqdm(total=self.train.steps, initial=self.step, unit="step", disable=not first)
        watch, due = self._watch(), False
        loader = batches(self.data.mix, start=self.step, workers=run.workers)
        coming = ahead(loader, self.made_ready, self.ranks.device)
        with (
            noting_interrupt() as interrupted,
            telling_lost(),
            keeping(self._save_last) if self.ranks.ranks == 1 else nullcontext(),
            closing(progress),
            surviving(loader),
            closing(coming),
        ):
            for parts in watch.waiting(coming):
                rate, norm = self.train_on(parts, watch)
                progress.update()
                if self.step % run.log_every == 0:
                    self._note(watch, rate, norm, progress)
                saves, draws, stops = self.ranks.agreed(
                    first and time_to_save(),
                    first and draw_sheet is not None and time_to_draw(),
                    interrupted() or (first and out_of_time()),
                )
                self.saver.poll()
                due = due or saves
                with watch.aside():
                    if due and self.guard.good:  # nothing that is spoiled or was just gone back to
                        self.save()
                        due = False
                    if draws:
                        self._draw(draw_sheet)
                if stops:
                    break
            self._save_last()
            hurry, draws = self.ranks.agreed(interrupted(), draw_sheet is not None)
            if draws and not hurry:
                self._draw(draw_sheet)
        return self.step

    def _watch(self) -> Watch:
        spec, tokens = self.stage.spec, self.data.encoder.length
        beside = spec.unet.side is not None and not self.stage.unet.z_in.weight.requires_grad
        flops = 0
        if self.ranks.first:
            flops = training_flops(spec, tokens, lora=self.lora, beside=beside)
        peak = matrix_rate(repeats=2, device=self.ranks.device)
        return Watch(self.ranks, flops_per_row=flops, peak_flops=peak)

    def made_ready(self, batch: Batch) -> list[Ready]:
        """A batch in the parts that it is computed in, on the device."""
        parts = batch.parts(self.run_spec.accumulate)
        return [make_ready(part, self.data.encoder, self.ranks.device) for part in parts]

    def train_on(self, parts: Sequence[Ready], watch: Watch) -> tuple[float, float]:
        """One optimizer step; returns the learning rate and the norm of the gradient."""
        run, unet = self.run_spec, self.stage.unet
        rate = self.train.learning_rate * self.schedule()
        engine.set_rate(self.optimizer, rate)
        values = []
        for i, part in enumerate(parts, start=1):
            synchronise(unet, self.ranks, last=i == run.accumulate)
            loss = self._loss(part)
            (loss.value / run.accumulate).backward()
            values.append(loss.value.detach())
            watch.saw(loss, part.batch)
        own = gathered(torch.nn.utils.clip_grad_norm_(unet.parameters(), self.train.grad_clip))
        # The same numbers to the last bit on every process: they must not judge differently.
        both = self.ranks.total(torch.stack([own, torch.stack(values).mean()])) / self.ranks.ranks
        norm, mean = both.tolist()
        verdict = self.guard.judge(norm, mean)
        if verdict is Verdict.GOOD:
            self.optimizer.step()
            self.ema.update(unet, self.step)
        elif verdict is Verdict.ROLL_BACK:
            self._roll_back()
        self.optimizer.zero_grad(set_to_none=True)  # no room taken while a checkpoint is made
        self.step += 1
        return rate, norm

    def schedule(self) -> float:
        """The share of the learning rate that the coming step takes."""
        return rate_at(self.step, self.train)

    def _loss(self, part: Ready, objective: Objective | None = None, step: int = -1) -> Loss:
        device = self.ranks.device
        # Noise, dropout and levels are functions of (seed, step): nothing to save, exact resume.
        draws = Draws(
            part.batch.total,
            part.batch.rows,
            seed=self.run_spec.seed,
            step=self.step if objective is None else step,
            device=device,
        )
        half = self.run_spec.half(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return self.stage.loss(to_float(part.video), part.cond, draws, objective=objective)

    def _roll_back(self) -> None:
        """Weights, averages and optimizer of the last checkpoint; the data goes on from here. A
        second time soon after that of the one before: the last may hold what spoils steps."""
        self.saver.finish()
        found = self._newest(self.guard.rollbacks - 1)
        if found is None or self.guard.rollbacks > ROLLBACKS:
            again = f" with --init-from {self.out}" if found else ""
            raise Exploded(
                "gradient or loss exploded or was not finite in step after step up to "
                f"{self.step}: train at a lower learning rate into another --out{again}"
            )
        checkpoint.load(found, self.stage.unet, self.ema, self.optimizer)
        if self.log is not None:
            self.log.write({"step": self.step, "rolled_back_to": found.name})
            tqdm.write(f"step {self.step}: spoiled steps; back to the weights of {found}")

    def _note(self, watch: Watch, rate: float, norm: float, progress: tqdm) -> None:
        facts = {"step": self.step, "lr": rate, "grad_norm": float(f"{norm:.6g}")}
        facts |= watch.facts()
        facts |= {"skipped": self.guard.skipped, "bad_samples": count_bad(self.out)}
        progress.set_postfix(loss=facts["loss"], clips_s=facts["clips_per_second"])
        if self.log is not None:
            self.log.write(facts)

    @cached_property
    def _held_out(self) -> list[tuple[int, Ready]]:
        read = enumerate(self.data.held_out(workers=self.run_spec.workers))
        return [(i, part) for i, batch in read for part in self.made_ready(batch)]

    def validated(self) -> float | None:
        """The mean loss of the averaged weights on held-out clips, at fixed times and noise."""
        if not self._held_out:
            return None
        losses: list[torch.Tensor] = []
        unet, objective = self.stage.unet, self.stage.objective()
        with torch.no_grad(), self.ema.in_place_of(unet), engine.uncompiled(self.run_spec.compiled):
            for step, part in self._held_out:
                for i, time_ in enumerate(VALIDATION_TIMES, start=step * len(VALIDATION_TIMES)):
                    at = replace(objective, times=fixed_time(time_))
                    losses.append(self._loss(part, at, i).per_clip)
        values = torch.cat(losses)
        total, count = self.ranks.total(torch.stack([values.sum(), values.new_tensor(len(values))]))
        return float(total / count)

    def _facts(self, step: int) -> dict:
        """What this run is, and where its data stands before a step."""
        position = self.data.mix.position(step)
        return {
            "step": step,
            "seed": self.run_spec.seed,
            "spec": to_json(self.stage.spec),
            "lora": self.lora and self.lora.facts(),
            "text": kind_and_length(self.data.encoder),
            "data": {name: asdict(where) for name, where in position.items()},
        }

    def _draw(self, draw_sheet: Callable[[Stage], Path] | None) -> None:
        stage = self.averaged()
        if stage is not None and draw_sheet is not None:
            self._show(stage, draw_sheet)
        self.ranks.wait()

    def _show(self, stage: Stage, draw_sheet: Callable[[Stage], Path]) -> None:
        try:
            stage.unet.to(self.ranks.device, working_dtype(self.ranks.device))
            sheet = draw_sheet(stage)
        except torch.OutOfMemoryError:  # a whole second network, where training is sharded
            tqdm.write(f"step {self.step}: no room on {self.ranks.device} for a sample sheet")
            return
        if self.log is not None:
            self.log.show(self.step, sheet)

    def averaged(self) -> Stage | None:
        """A stage on the CPU with the averaged weights; None but on the first process."""
        return engine.averaged(self.stage, self.ema, self.ranks, self.lora)

    def _save_last(self) -> None:
        ended = self.step >= self.train.steps
        if self._saved != self.step and (ended or self.guard.good):
            self.save()
        self.saver.finish()

    def save(self) -> None:
        """Begin a checkpoint, and write the averaged weights as a stage folder; not of weights
        whose validation loss is not finite: what was saved before is better."""
        validation = self.validated()
        if validation is not None and not math.isfinite(validation):
            if self.log is not None:
                tqdm.write(f"step {self.step}: not saved, the validation loss is {validation}")
            return
        facts = self._facts(self.step)
        facts |= {"guard": self.guard.state(), "validation": validation}
        tensors = checkpoint.tensors_of(self.stage.unet, self.ema, self.optimizer)
        self.saver.save(tensors, facts)
        self._saved = self.step
        if validation is not None and self.log is not None:
            self.log.write({"step": self.step, "validation": validation})
        if self.lora is None:
            stage = self.averaged()
            if stage is not None:
                save_stage(stage, self.out, dtype=torch.bfloat16)
            return
        adapters = {name: gathered(average) for name, average in self.ema.average.items()}
        if self.ranks.first:
            self.lora.save(adapters, self.stage.unet, self.out / ADAPTER)
