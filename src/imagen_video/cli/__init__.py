"""The command line: one dataclass of options and one function a command."""

import os
import signal
import sys
from dataclasses import dataclass

import tyro
from tyro.conf import Positional

from imagen_video.cli.data import Data, run_data
from imagen_video.cli.distill import Distill, run_distill
from imagen_video.cli.doctor import Doctor, run_doctor
from imagen_video.cli.evaluate import Evaluate, Sweep, run_evaluate, run_sweep
from imagen_video.cli.export import Export, run_export
from imagen_video.cli.plan import Plan, run_plan
from imagen_video.cli.provenance import Inspect, run_inspect
from imagen_video.cli.sample import Generate, Upscale, run_generate, run_upscale
from imagen_video.cli.serve import Serve, run_serve
from imagen_video.cli.train import Train, run_train


@dataclass
class Info:
    """Print a cascade as a table."""

    model: Positional[str] = "mini"
    """A preset, file.py:function, a folder, or org/name of the hub."""
    json: bool = False


def run_info(options: Info) -> None:
    from imagen_video import presets
    from imagen_video.info import as_json, as_table, describe

    rows = describe(presets.shipped(options.model))
    print(as_json(rows) if options.json else as_table(rows))


COMMANDS = {
    Generate: run_generate,
    Upscale: run_upscale,
    Serve: run_serve,
    Train: run_train,
    Distill: run_distill,
    Export: run_export,
    Info: run_info,
    Inspect: run_inspect,
    Plan: run_plan,
    Data: run_data,
    Evaluate: run_evaluate,
    Sweep: run_sweep,
    Doctor: run_doctor,
}
KINDS = {run.__name__.removeprefix("run_"): kind for kind, run in COMMANDS.items()}


def _refuse_repeated(words: list[str]) -> None:
    """Of an option given twice only the last would count."""
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice: give all its values after one {name}")


def main() -> None:
    """Entry point: a bad input is one line on stderr and exit code 2."""
    options = tyro.extras.subcommand_cli_from_dict(KINDS, prog="imagen-video")
    try:
        _refuse_repeated(sys.argv)
        COMMANDS[type(options)](options)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        print(f"imagen-video: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        # Not imported for it: torch takes a second.
        if type(error).__name__ not in ("Lost", "Unreachable"):
            raise
        print(f"imagen-video: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
