"""Times functions in turns, so that a machine whose speed drifts changes no ratio."""

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 5


def median_seconds(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Calls every function once a round, and returns each one's median time."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
