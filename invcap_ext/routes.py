"""Forces one implementation of a layer, for tests and timings that compare them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from invcap_ext._C import force_way


@contextmanager
def route(way: Literal["dense", "fused", "tiles"]) -> Iterator[None]:
    """Forces one implementation for all calls of this process; `csrc/route.cpp` else chooses.

    Args:
        way: "dense": L U as one matrix with torch's products; frozen modules also invert with a
            dense matrix. "fused": kernels for few rows, which process whole rows. "tiles": kernels
            that work tile by tile. On a GPU the last two are the same: our own kernels, chosen by
            the size of shared memory.

    Raises:
        ValueError: `way` is none of these.
    """
    before = force_way(way)
    try:
        yield
    finally:
        force_way(before)
