"""One job at a time on a device, in a thread of its own, which ends when nobody waits for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any, TypeVar

import gradio as gr
from torch import nn

EVERY = 0.25  # seconds between two looks at a job
Result = TypeVar("Result")


class CancelledError(Exception):
    """Ends the work of a job that nobody waits for."""


class Job:
    """What a running piece of work and those who watch it know of each other.

    Attributes:
        folder: for files that are there until the result was given.
        stopping: set when it shall end early and keep what it has.
        cancelled: set when it shall end and nothing is kept.
        evaluations: calls of the watched networks so far.
        started: when it began to run, by `time.perf_counter`.
        seen: what the work shows of itself meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopping = Event()
        self.cancelled = Event()
        self.evaluations = 0
        self.started = time.perf_counter()
        self.seen: Any = None


class Worker:
    """Runs jobs one after another.

    A job that is cancelled ends when it next calls one of the networks, so that the next one need
    not wait long.

    Args:
        networks: what the work calls often.
        folder: of the jobs' folders.
    """

    def __init__(self, networks: Iterable[nn.Module], folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "job")
        self._running: Job | None = None
        for network in networks:
            self.watch(network)

    def watch(self, network: nn.Module) -> None:
        """Lets jobs end at calls of a further network."""
        network.register_forward_pre_hook(self._on_call)

    def run(
        self,
        work: Callable[[Job], Result],
        give: Callable[[Result], Any],
        show: Callable[[Job], Any] = lambda job: gr.skip(),
    ) -> Generator[Any, None, None]:
        """Does some work; yields what `show` makes of its job now and then, and `give` at the end.

        When the generator is closed, its job is cancelled, and the job's folder goes.

        Args:
            work: what is done, in the worker's thread.
            give: from what that returns to what is yielded last.
            show: from the job to what is yielded while it waits and runs.

        Raises:
            gr.Error: in one line, what the work raised.
        """
        job = Job(Path(mkdtemp(dir=self._folder)))
        future: Future[Result] = self._thread.submit(self._run, job, work)
        try:
            while not wait([future], EVERY).done:
                yield show(job)
            yield give(future.result())
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            job.cancelled.set()
            future.cancel()
            self._thread.submit(shutil.rmtree, job.folder, ignore_errors=True)

    def close(self) -> None:
        """Cancels the job that runs and all that wait."""
        if self._running is not None:
            self._running.cancelled.set()
        self._thread.shutdown(cancel_futures=True)

    def _run(self, job: Job, work: Callable[[Job], Result]) -> Result:
        job.started = time.perf_counter()
        self._running = job
        try:
            return work(job)
        finally:
            self._running = None

    def _on_call(self, *_: object) -> None:
        job = self._running
        if job is None:
            return
        if job.cancelled.is_set():
            raise CancelledError
        job.evaluations += 1
