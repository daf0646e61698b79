"""Times GPU work with a cold L2 cache, without the CPU's launch overhead.

One CUDA graph has many rounds that clear the L2 and do the work, another as many that only clear
the L2; the difference of their times is that of the work. What cannot be captured in a graph is
launched round by round.
"""

from collections.abc import Callable
from statistics import median

import torch

ROUNDS = 20  # rounds in a graph
REPEATS = 7  # replays of a graph, of which the median is taken
LONG_MS = 10.0  # longer work gets two rounds only: a warm L2 hardly speeds it up


def milliseconds(work: Callable[[], object]) -> float:
    """Returns the median milliseconds of one call of `work` on the current device."""
    # Twice the L2's size, since on some chips each half has an L2 partition of its own.
    l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    scratch = torch.empty(max(2 * l2_bytes, 1 << 20), dtype=torch.uint8, device="cuda")
    for _ in range(3):
        work()
    rounds = 2 if _elapsed(work) > LONG_MS else ROUNDS
    both = _rounds(lambda: (scratch.zero_(), work()), rounds)
    emptying = _rounds(scratch.zero_, rounds)
    return per_round([_elapsed(both) for _ in range(REPEATS)],
                     [_elapsed(emptying) for _ in range(REPEATS)], rounds)  # fmt: skip


def per_round(both: list[float], emptying: list[float], rounds: int) -> float:
    """Milliseconds of the work in one round, at least a tenth of a microsecond."""
    return max((median(both) - median(emptying)) / rounds, 1e-4)


def _rounds(body: Callable[[], object], rounds: int) -> Callable[[], object]:
    """Returns a function that runs all rounds: a graph, or a loop if `body` cannot be captured."""

    def loop() -> None:
        for _ in range(rounds):
            body()

    loop()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loop()
    except RuntimeError:
        torch.cuda.synchronize()
        return loop
    graph.replay()
    return graph.replay


def _elapsed(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
