"""Work in forked processes, which need not import anything and may be killed."""

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import sentence_transformers  # noqa: F401  what each child would import again
import torch
from accelerate.state import AcceleratorState

import invcap.captioning.run
import invcap.prompt_inversion.bulk  # noqa: F401
from invcap.cli import main


def run_forked(
    *arguments: object, log: Path, output: Path | None = None, kill_after: float | None = None
) -> int | None:
    """Runs a command of `invcap` and returns its exit code, or None if it was killed.

    Args:
        log: file that what it prints is added to.
        output: file for its standard output, if not the same.
        kill_after: seconds.
    """
    return ended(fork(lambda: run_invcap(arguments), log, output), kill_after)


def fork(run: Callable[[], object], log: Path, output: Path | None = None) -> int:
    """Calls a function in a process of its own and returns that one's number; see `run_forked`."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sys.stdout = (output or log).open("a", encoding="utf-8", buffering=1)
        sys.stderr = log.open("a", encoding="utf-8", buffering=1)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        logging.root.handlers.clear()
        torch.set_num_threads(1)
        AcceleratorState._reset_state(reset_partial_state=True)
        run()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def fork_two(run: Callable[[], object], log: Path) -> list[int | None]:
    """Calls a function in two processes that work together, and returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def start(rank: int) -> int:
        mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
        mine |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}

        def run_as_one_of_two() -> None:
            os.environ |= {name: str(value) for name, value in mine.items()}
            run()

        return fork(run_as_one_of_two, log)

    return [ended(child) for child in [start(0), start(1)]]


def ended(child: int, kill_after: float | None = None) -> int | None:
    """Waits for a forked process and returns its exit code; kills it after some seconds: None."""
    deadline = time.monotonic() + (kill_after or 300)
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_invcap(arguments: tuple[object, ...]) -> None:
    """Runs a command in this process."""
    sys.argv = ["invcap", *map(str, arguments)]
    main()
