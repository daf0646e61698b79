"""Kills of a run within a process."""

from collections.abc import Callable


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
