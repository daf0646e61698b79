"""Runs one job at a time on a device, in a thread; cancelled jobs end soon."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import Any

import gradio as gr
from torch import nn

EVERY = 1.0  # seconds between two looks at a job


class CancelledError(Exception):
    """Ends the work of a cancelled job."""


class Job:
    """The state of a job, shared by the thread that runs it and those that watch it.

    Attributes:
        folder: for files, which are removed after the result has been delivered.
        session: the browser session that waits for it.
        stopping: set to end early and keep the best so far.
        cancelled: set to end and keep nothing.
        evaluations: calls of the watched networks so far.
        started: the time when it began to run, from `time.perf_counter`.
        step: progress, as the work reports it.
        seen: intermediate results, until they are taken.
    """

    def __init__(self, folder: Path, session: str | None = None) -> None:
        self.folder = folder
        self.session = session
        self.stopping = Event()
        self.cancelled = Event()
        self.evaluations = 0
        self.started = time.perf_counter()
        self.step = 0
        self.seen: Sequence[Any] = ()


class Worker:
    """Runs jobs one after another.

    A cancelled job ends when it next calls one of the networks, so that the next job starts soon.

    Args:
        networks: networks that jobs call often.
        folder: parent of the jobs' folders.
    """

    def __init__(self, networks: Iterable[nn.Module], folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "job")
        self._running: Job | None = None
        for network in networks:
            self.watch(network)

    def watch(self, network: nn.Module) -> None:
        """Lets cancelled jobs also end at calls of this network."""
        network.register_forward_pre_hook(self._on_call)

    def run(
        self,
        work: Callable[[Job], Any],
        show: Callable[[Job], Any] = lambda job: gr.skip(),
        session: str | None = None,
    ) -> Generator[Any, None, None]:
        """Runs a job; yields `show(job)` from time to time, and at the end the result.

        When the generator is closed, the job is cancelled, and its folder is removed.

        Args:
            work: the job's function, called in the worker's thread.
            show: maps the job to what is yielded while it waits and runs.
            session: see `Job`.

        Raises:
            gr.Error: the work raised an error; the message is its first line.
        """
        job = Job(Path(mkdtemp(dir=self._folder)), session)
        future = self._thread.submit(self._run, job, work)
        try:
            while not wait([future], EVERY).done:
                yield show(job)
            yield future.result()
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            job.cancelled.set()
            future.cancel()
            self._thread.submit(shutil.rmtree, job.folder, ignore_errors=True)

    def stop(self, session: str | None) -> bool:
        """Lets the running job end early with the best so far; False if it is another session's."""
        job = self._running
        if job is None or job.session != session:
            return False
        job.stopping.set()
        return True

    def close(self) -> None:
        """Cancels the job that runs and all that wait."""
        if self._running is not None:
            self._running.cancelled.set()
        self._thread.shutdown(cancel_futures=True)

    def _run(self, job: Job, work: Callable[[Job], Any]) -> Any:
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


def connect(
    worker: Worker,
    name: str,
    buttons: Sequence[gr.Button],
    inputs: Sequence[gr.Component],
    outputs: Sequence[gr.Component],
    check: Callable[..., list[dict[str, Any]]],
    work: Callable[..., Sequence[Any]],
    show: Callable[..., Sequence[Any]] = lambda job, *values: [""],
) -> None:
    """Connects a button that starts a job and one that cancels it; all tabs share one queue.

    Args:
        name: name of the API endpoint.
        buttons: the buttons for starting and cancelling.
        outputs: components of the result; the first shows the job's status.
        check: maps the inputs to the results of `gr.validate`.
        work: maps the job and the inputs to the outputs.
        show: maps the job and the inputs to the first few outputs, while the job waits and runs.
    """
    run, cancel = buttons

    def on_run(request: gr.Request, *values: Any) -> Generator[Any, None, None]:
        def shown(job: Job) -> Any:
            seen = show(job, *values)
            return [*seen, *[gr.skip()] * (len(outputs) - len(seen))]

        yield from worker.run(lambda job: work(job, *values), shown, request.session_hash)

    event = run.click(
        on_run,
        inputs,
        outputs,
        validator=check,
        concurrency_id="device",
        concurrency_limit=1,
        api_name=name,
    )
    status = outputs[0]
    cancel.click(lambda: "", None, status, cancels=[event], queue=False, api_visibility="private")
