"""Times of GPU work with a cold L2, without what the CPU takes to launch it.

A CUDA graph of many rounds (empty the L2, do the work) is timed beside one of as many rounds that
only empty the L2: the difference is the work's. What cannot be captured is launched round by round.
"""

from collections.abc import Callable
from statistics import median

import torch

ROUNDS = 20  # of a graph
REPEATS = 7  # of a graph, whose median counts
LONG_MS = 10.0  # work that takes longer gets two rounds: it is hardly helped by a warm L2


def milliseconds(work: Callable[[], object]) -> float:
    """Returns the median milliseconds of one call of `work` on the current device."""
    # Twice the L2, since parts of it are kept apart for each half of some chips.
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
    """Returns what runs `body` so often: a captured graph, or a loop if it cannot be captured."""

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
