"""Programs that tests start, forked from one that has imported what they need: importing torch and
the text encoder takes a process longer than most of these run."""

import multiprocessing
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess

import torch

from imagen_video.cli import main

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])


def fork(program: Callable[..., None], *words, said: Path, ranks: int = 1) -> list[BaseProcess]:
    """Start `program` as one process, or as many that find each other as torchrun's do.

    Each leads a session of its own; what they print is added to the files `said`.out and .err.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared["WORLD_SIZE"] = str(ranks)
    processes = []
    for rank in map(str, range(ranks)):
        environment = shared | {"RANK": rank, "LOCAL_RANK": rank}
        run = CONTEXT.Process(target=_begin, args=(environment, said, program, *words))
        run.start()
        processes.append(run)
    return processes


def _begin(environment: dict[str, str], said: Path, program: Callable[..., None], *words) -> None:
    os.setsid()
    # As in a program of its own: forked children would start a fork server each for their workers.
    multiprocessing.set_start_method("fork", force=True)
    os.environ.clear()
    os.environ.update(environment)
    for number, end in ((1, ".out"), (2, ".err")):
        with said.with_name(said.name + end).open("a") as file:
            os.dup2(file.fileno(), number)
    # torch makes what it lost by forking anew in the first thread that asks; others that ask
    # meanwhile find nothing.
    torch.set_num_threads(torch.get_num_threads())
    program(*words)


def command(*words: str) -> None:
    """Be imagen-video with these words."""
    sys.argv = ["imagen-video", *words]
    main()


def together(program: Callable[..., None], *words, said: Path, ranks: int) -> None:
    """Run a program in many processes to its end, which is a good one."""
    run = fork(program, *words, said=said, ranks=ranks)
    for process in run:
        process.join(300)
    errors = said.with_name(f"{said.name}.err").read_text()
    assert [process.exitcode for process in run] == [0] * ranks, errors[-3000:]


def imagen_video(*words: str | Path | float) -> CompletedProcess[str]:
    """Run imagen-video to its end, for at most five minutes."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        (run,) = fork(command, *map(str, words), said=said)
        run.join(300)
        assert run.exitcode is not None, f"still running: {words}"
        out, err = (said.with_name(said.name + end).read_text() for end in (".out", ".err"))
        return CompletedProcess(words, run.exitcode, out, err)
