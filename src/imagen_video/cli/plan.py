"""imagen-video plan."""

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass
class Plan:
    """Say what training a cascade takes: memory and FLOPs, how to shard it, how long it lasts."""

    preset: Positional[str] = "paper"
    """A preset, file.py:function, a folder, or org/name of the hub."""
    gpus: int = 8
    gpu_memory: float = 80.0
    """GiB of each."""
    tflops: float = 989.0
    """Dense bfloat16 TFLOP/s of each (default: an H100 or H200)."""
    utilisation: float = 0.4
    """Share of them that training gets."""


def run_plan(options: Plan) -> None:
    from tqdm import tqdm

    from imagen_video import presets
    from imagen_video.training.plan import Hardware, as_tables, needs_of, plan

    hardware = Hardware(
        gpus=options.gpus,
        gpu_memory=options.gpu_memory,
        tflops=options.tflops,
        utilisation=options.utilisation,
    )
    stages = needs_of(presets.find(options.preset))
    with tqdm(stages, unit="stage", leave=False) as shown:
        plans = [plan(needs, hardware) for needs in shown]
    print(as_tables(plans, hardware, options.preset))
