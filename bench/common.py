"""What every benchmark prints and measures with: the machine, its ceilings, a stopwatch."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Images, channels, height, width of the 3x3 convolutions: full levels of the cascade's networks.
CONVOLUTIONS = ((16, 64, 96, 160), (16, 128, 48, 80), (16, 256, 24, 40))
SIDES = (1024, 2048)


def machine() -> str:
    """Processor, threads and PyTorch, for the head of every table."""
    name, matrix_unit, cpuinfo = platform.machine(), "", Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        names = [x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name")]
        name = names[0] if names else name
        matrix_unit = " with AMX" if " amx_bf16" in text else ""
    threads = f"{torch.get_num_threads()} threads"
    if torch.get_default_device().type == "cuda":
        name, matrix_unit, threads = torch.cuda.get_device_name(), "", f"CUDA {torch.version.cuda}"
    return f"{name}{matrix_unit}, {threads}, PyTorch {torch.__version__}"


def seconds(function: Callable[[], Any], *, repeats: int = 5, warmup: int = 1) -> float:
    """Median time of a call."""
    for _ in range(warmup):
        function()
    return statistics.median(stopwatch(function) for _ in range(repeats))


def stopwatch(function: Callable[[], Any]) -> float:
    """Seconds that a call takes, with what it has the default device do."""
    start = time.perf_counter()
    function()
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of matrix products and channels-last 3x3 convolutions, by name; forward only."""
    rates, large = {}, torch.get_default_device().type == "cuda"
    with torch.inference_mode():
        for side in (8192,) if large else SIDES:
            a = torch.randn(side, side, dtype=dtype)
            rates[f"matmul {side}"] = 2 * side**3 / seconds(lambda a=a: a @ a)
        for images, channels, height, width in CONVOLUTIONS:
            images = 64 * images if large else images
            x = _channels_last(torch.randn(images, channels, height, width, dtype=dtype))
            w = _channels_last(torch.randn(channels, channels, 3, 3, dtype=dtype))
            flops = 2 * 9 * channels**2 * images * height * width
            taken = seconds(lambda x=x, w=w: F.conv2d(x, w, padding=1))
            rates[f"conv {images}x{channels}x{height}x{width}"] = flops / taken
    return rates


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def ceiling_lines(rates: dict[str, dict[str, float]]) -> list[str]:
    """One line a precision, its best first."""
    lines = []
    for precision, by_name in rates.items():
        shown = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in by_name.items())
        best = max(by_name.values()) / 1e12
        lines.append(f"{precision} ceiling {best:.2f} TFLOP/s ({shown})")
    return lines


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns padded to equal width, the first to the left and numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    padded = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(padded)


def write_json(path: Path, ceiling: dict, rows: list[Any]) -> None:
    """The machine, its ceilings in FLOP/s and the rows, as they were measured."""
    facts = {"machine": machine(), "ceilings": ceiling, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(facts, indent=2) + "\n")
