"""Which way a layer is computed, for tests and timings that compare the ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from invcap_ext._C import force_way


@contextmanager
def route(way: Literal["dense", "fused", "tiles"]) -> Iterator[None]:
    """Makes every call of this process take one way, instead of what `csrc/route.cpp` chooses.

    Args:
        way: "dense": L U as one matrix, by torch's products, and back by its inverse, which only
            frozen modules keep. "fused": kernels that take rows as they are, meant for a few.
            "tiles": kernels that go tile by tile. On a GPU the last two mean kernels of our own,
            and its shared memory decides which.

    Raises:
        ValueError: there is no such way.
    """
    before = force_way(way)
    try:
        yield
    finally:
        force_way(before)
