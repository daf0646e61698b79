"""Work in processes of their own, which need not import anything and may be killed.

They are forked from a process that has imported everything and done nothing: forks of one that
works share its locks, tqdm's among them, which one that is killed may hold forever.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from invcap.cli import main

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["sentence_transformers", "invcap.cli", "invcap.captioning.run", "invcap.prompt_inversion.bulk"]
)
LIMIT = 300  # seconds


def start_server() -> None:
    """Starts the process that others are forked from, unless it runs, so that runs can be timed."""
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


def run_forked(*arguments: object, log: Path, **options: Any) -> int | None:
    """Runs a command of `invcap` as `fork` does."""
    return fork(run_invcap, *arguments, log=log, **options)


def run_invcap(*arguments: object) -> None:
    """Runs a command in this process."""
    sys.argv = ["invcap", *map(str, arguments)]
    main()


def fork(
    function: Callable[..., object],
    *arguments: object,
    log: Path,
    output: Path | None = None,
    kill_after: float | None = None,
) -> int | None:
    """Calls a function of a module and returns the exit code, or None if it was killed.

    Args:
        log: file that what it prints is added to.
        output: file for its standard output, if not the same.
        kill_after: seconds.

    Raises:
        TimeoutError: it was not to be killed and does not end.
    """
    return ended(start(function, arguments, log, output or log), kill_after)


def fork_two(function: Callable[..., object], *arguments: object, log: Path) -> list[int | None]:
    """Calls a function in two processes that work together, and returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = [together | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    processes = [start(function, arguments, log, log, rank) for rank in ranks]
    return [ended(process) for process in processes]


def start(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    log: Path,
    output: Path,
    environment: Mapping[str, object] = {},
) -> BaseProcess:
    process = CONTEXT.Process(target=run, args=(function, arguments, log, output, environment))
    process.start()
    return process


def run(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    log: Path,
    output: Path,
    environment: Mapping[str, object],
) -> None:
    sys.stdout, sys.stderr = (path.open("a", buffering=1) for path in (output, log))
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    logging.root.handlers.clear()
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)
    function(*arguments)


def ended(process: BaseProcess, kill_after: float | None = None) -> int | None:
    process.join(kill_after or LIMIT)
    killed = process.exitcode is None
    if killed:
        process.kill()
        process.join()
    if killed and kill_after is None:
        raise TimeoutError(f"{process.name} has not ended after {LIMIT} s")
    return None if killed else process.exitcode
