"""imagen-video distill."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagen_video.cli.train import as_spec, use_threads


@dataclass
class Distill:
    """Distil a trained stage: its guidance into one call a step, then half the steps in each round.

    Run again it goes on where it stopped. In the end OUT/cascade is the teacher's cascade with the
    student in its place: for `generate --model`, or as the teacher of another stage.
    """

    stage: str
    out: Path
    """Folder of a folder a round: weights, checkpoints, log, sheets, compared.png."""
    teacher: str = "mini"
    """mini, a cascade's folder, or org/name of the hub."""
    rounds: tuple[int, ...] = ()
    """The students' steps, such as 32 16 8 (default; 16 8 of upsampling stages)."""
    stochastic: bool = False
    """A last round for the stochastic sampler, whose steps overlap."""
    direct: bool = False
    """Learn guidance in the first halving and not in a round of its own: less to train."""
    guidance_only: bool = False
    """A small network beside the teacher, which stays as it is, learns guidance, for the teacher's
    own steps: where it takes few already."""
    side: int | None = None
    """Channels of the network of --guidance-only, a multiple of 8 (default: 32)."""
    init_from: Path | None = None
    """A folder of a stage whose weights the first student begins with (default: the teacher's); of
    --guidance-only, one whose side network is trained on."""
    previous: Path | None = None
    """A folder of the stage before: low-resolution videos as that makes them, not true ones."""
    weights: tuple[float, float] = (0.0, 15.0)
    """Guidance weights that students are told lie between these."""
    updates: int = 1000
    """Optimizer steps a round."""
    guidance_updates: int | None = None
    """Of the round that learns guidance, if others: there is most to learn in it."""
    learning_rate: float | None = None
    """Falls to 0 in each round (default: from that of the stage's training)."""
    weighting: Literal["v", "eps", "x", "snr_trunc", "min_snr", "sigmoid"] | None = None
    """Of the loss, unbounded, such as the papers' snr_trunc and v (default: as in training)."""
    data: tuple[str, ...] = ("stickers",)
    """As of train, like what has no words of its own."""
    minutes: float | None = None
    """Stop early after so long."""
    captions: Path | None = None
    cropping: Literal["random", "centre"] = "random"
    max_bad: float = 0.05
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    workers: int = 1
    shards: int = 1
    accumulate: int = 1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    recompute: bool = False
    compiled: bool = False
    log_every: int = 20
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    keep: int = 2


def run_distill(options: Distill) -> None:
    from imagen_video import presets
    from imagen_video.index import located
    from imagen_video.training.distill import DistillSpec, as_table, distill, put_in_place
    from imagen_video.training.job import JobSpec
    from imagen_video.training.run import RunSpec

    use_threads(options.threads)
    folder = located(options.teacher, weights=True)
    cascade = presets.shipped(options.teacher)
    teacher = folder / cascade.stage(options.stage).name
    job, run = as_spec(JobSpec, options, teacher=teacher), as_spec(RunSpec, options)
    rounds = []
    for done in distill(cascade, teacher, job, as_spec(DistillSpec, options), run):
        rounds.append(done)
        print(as_table(rounds))
    if rounds and rounds[-1].last:
        put_in_place(options.teacher, rounds[-1].folder, options.out / "cascade")
        print(f"imagen-video generate ... --model {options.out / 'cascade'}")
