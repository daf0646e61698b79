"""Which way a layer is computed, for tests and timings that compare the ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from invcap_ext._C import force_way


@contextmanager
def route(way: Literal["dense", "fused", "tiles"]) -> Iterator[None]:
    """Makes every call of this process take one way, instead of what `csrc/route.cpp` chooses.

    Args:
        way: "dense": L U as one matrix, by torch's products; for an inverse, that one matrix is
            inverted and kept, which only modules can. "fused": kernels that take rows as they are,
            meant for a few on a CPU. "tiles": kernels that go tile by tile.

    Raises:
        ValueError: there is no such way.
    """
    before = force_way(way)
    try:
        yield
    finally:
        force_way(before)
