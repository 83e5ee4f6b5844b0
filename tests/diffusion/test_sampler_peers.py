"""Our moves against an independent library's schedulers, on our grid of noise levels."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from exact import answering, gaussian, sample

from imagen_video.diffusion.denoised import Denoiser
from imagen_video.diffusion.sampler import Move, Noise, ddim, dpmpp_2m
from imagen_video.diffusion.schedule import CosineSchedule
from imagen_video.video import Video

Scheduler = DDIMScheduler | DPMSolverMultistepScheduler
TRAIN_STEPS = 1000
CURVED = answering(lambda z, alpha, sigma: torch.tanh(2 * alpha * z))  # no model of any data


def theirs(
    scheduler: Scheduler, denoise: Denoiser, schedule: CosineSchedule, start: Video, num_steps: int
) -> Video:
    """A run of the scheduler with v-prediction; their time index i is our t = (i + 1) / 1000."""
    times = torch.arange(1, TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS
    scheduler.alphas_cumprod = torch.sigmoid(schedule(times))
    scheduler.set_timesteps(num_steps)
    z = start
    for index in scheduler.timesteps:
        logsnr = schedule(times[index]).expand(len(z))
        z = scheduler.step(denoise(z.double(), logsnr).v, index, z).prev_sample
    return z


def start() -> Video:
    return Noise(seed=0)((2, 2, 3, 8, 8), stage="base", step=0).double()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
@pytest.mark.parametrize("denoise", [gaussian(0.3, 0.5), CURVED])
@pytest.mark.parametrize("schedule", [CosineSchedule(), CosineSchedule(shift=-3.0)])
@pytest.mark.parametrize("num_steps", [8, 20, 50])
@pytest.mark.parametrize(
    ("move", "scheduler"),
    [
        (
            ddim,
            DDIMScheduler(
                prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
            ),
        ),
        (
            dpmpp_2m,
            DPMSolverMultistepScheduler(
                prediction_type="v_prediction", timestep_spacing="trailing"
            ),
        ),
    ],
)
def test_runs_agree(
    move: Move, scheduler: Scheduler, denoise: Denoiser, schedule: CosineSchedule, num_steps: int
):
    ours = sample([denoise] * num_steps, schedule, lambda _: start(), move)
    other = theirs(scheduler, denoise, schedule, start(), num_steps)
    assert (ours - other).abs().max() < 1e-4
