"""Finds images that are nearly the same, by difference hashes, and groups them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from PIL import Image

HASH_SIDE = 8
COLOUR_SIDE = 8
MOST_BITS = 8  # of the 128 of a hash
MOST_COLOUR = 16.0  # mean absolute difference of thumbnails, of 255: blue beside purple is 14
ROWS_AT_ONCE = 512


def difference_hash(picture: Image.Image) -> np.ndarray:
    """Where an 8 x 8 grid grows brighter rightwards, and where downwards: 16 bytes.

    Margins should be cut off (`trim`): in them all images are alike. After "dHash" (N. Krawetz,
    "Kind of Like That", 2013), here in both directions.
    """
    grey = np.asarray(picture.convert("L").resize((HASH_SIDE + 1,) * 2, Image.Resampling.BOX))
    levels = grey.astype(np.int16) // 4  # smaller steps count as none
    right = levels[:-1, 1:] > levels[:-1, :-1]
    down = levels[1:, :-1] > levels[:-1, :-1]
    return np.packbits(np.concatenate([right.ravel(), down.ravel()]))


def colours(picture: Image.Image) -> np.ndarray:
    """The image at 8 x 8 pixels: 192 bytes."""
    small = picture.convert("RGB").resize((COLOUR_SIDE,) * 2, Image.Resampling.BOX)
    return np.asarray(small).ravel()


def near_duplicates(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Pairs (i, j), i < j, whose hashes differ in few bits and whose thumbnails in little.

    Args:
        hashes: (N, 16) bytes, of `difference_hash`.
        thumbnails: (N, 192) bytes, of `colours`.

    Returns:
        (pairs, 2) numbers.
    """
    bits = np.unpackbits(hashes, axis=1).astype(np.float32)
    ones = bits.sum(1)
    found = []
    for first in range(0, len(bits), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        distance = ones[rows, None] + ones[None, first:] - 2 * bits[rows] @ bits[first:].T
        i, j = (distance <= MOST_BITS).nonzero()
        later = j > i
        i, j = i[later] + first, j[later] + first
        if len(i):
            apart = np.abs(thumbnails[i].astype(np.int16) - thumbnails[j]).mean(1)
            found.append(np.stack([i, j], 1)[apart <= MOST_COLOUR])
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def connected(keys: Sequence[Hashable], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Groups items by equal keys and by pairs, also over several steps (union-find).

    Returns:
        The lowest number in the group of each item.
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)))
        parent[high] = low

    first_with: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        join(i, first_with.setdefault(key, i))
    for i, j in pairs:
        join(int(i), int(j))
    return [root(i) for i in range(len(keys))]
