"""Kills of a run, within its process and from outside."""

from collections.abc import Callable
from random import Random

KILLS = 12  # each in another twelfth of a run


class KilledError(Exception):
    """What ends a run that a test kills."""


def kill_at(call: int) -> Callable[..., None]:
    """A callback that kills at its call of this number, from 1."""
    calls = 0

    def callback(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError

    return callback


def kill_times(count: int, first: float, last: float) -> list[float]:
    """One random time in each of `count` equal parts of an interval, in random order."""
    random = Random(0)
    part = (last - first) / count
    times = [first + part * (number + random.random()) for number in range(count)]
    random.shuffle(times)
    return times


def run_killed(run: Callable[..., int | None], times: list[float]) -> int:
    """Starts a run, kills it and starts it again, until it ends; returns its exit code.

    Args:
        run: starts or resumes; takes `kill_after` and returns an exit code, or None if killed.
        times: seconds, from the last to the first; one that killed a run is removed, and one that
            was too late for a whole run is halved.
    """
    fresh, code = True, None
    while code is None:
        code = run(kill_after=times[-1] if times else None)
        if code is None:
            times.pop()
        elif times and fresh:
            times[-1] /= 2
        fresh = False
    return code
