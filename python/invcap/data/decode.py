"""From examples to one array of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from invcap.data.example import Example, Skipped, listing


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Scales (bicubic, antialiased) until `size`, (height, width), is just covered.

    What sticks out on two opposite sides is cut off evenly (a centre crop).
    """
    height, width = size
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))


def decode_pictures(
    examples: Sequence[Example], size: tuple[int, int], source: str = "the data"
) -> tuple[np.ndarray, list[Example], list[Skipped]]:
    """Decodes the pictures of `examples`, all at one size.

    Each keeps its aspect: see `fit_picture`.

    Args:
        examples: what to decode.
        size: (height, width) in pixels.
        source: what the error message calls the data.

    Returns:
        The pictures that could be decoded, (N, height, width, 3), uint8, RGB; their N examples;
        and the others, each with its reason.

    Raises:
        ValueError: none of them can be decoded, or `size` is not positive.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size: expected a positive height and width, got {size}")
    pixels = np.empty((len(examples), height, width, 3), np.uint8)

    def decode(index: int) -> Skipped | None:
        try:
            pixels[index] = fit_picture(examples[index].open(), size)
        except OSError as error:
            return Skipped(examples[index].name, str(error))
        return None

    with ThreadPoolExecutor() as pool:
        failures = list(pool.map(decode, range(len(examples))))
    skipped = [failure for failure in failures if failure is not None]
    if len(skipped) == len(examples):
        raise ValueError(
            f"{source}: expected pictures, but none of {len(examples)} can be decoded\n"
            f"{listing(skipped, 5)}".rstrip()
        )
    if not skipped:
        return pixels, list(examples), []
    kept = [index for index, failure in enumerate(failures) if failure is None]
    return pixels[kept], [examples[index] for index in kept], skipped
