"""From examples to arrays of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from invcap.data.example import Example, Skipped


def fit_image(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Scales (bicubic, antialiased) until `size`, (height, width), is just covered.

    What exceeds it on two opposite sides is cut off evenly (a centre crop).
    """
    height, width = size
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))


def decode_images(
    examples: Sequence[Example], size: tuple[int, int]
) -> tuple[np.ndarray, list[Example], list[Skipped]]:
    """Decodes images, all at one size; each keeps its aspect, see `fit_image`.

    Args:
        examples: what to decode.
        size: (height, width) in pixels.

    Returns:
        The images that could be decoded, (N, height, width, 3), uint8, RGB; their N examples; and
        the others, each with its reason.
    """
    pixels = np.empty((len(examples), *size, 3), np.uint8)

    def decode(index: int) -> Skipped | None:
        try:
            pixels[index] = fit_image(examples[index].open(), size)
        except OSError as error:
            return Skipped(examples[index].name, str(error))
        return None

    with ThreadPoolExecutor() as pool:
        failures = list(pool.map(decode, range(len(examples))))
    skipped = [failure for failure in failures if failure is not None]
    if not skipped:
        return pixels, list(examples), []
    kept = [index for index, failure in enumerate(failures) if failure is None]
    return pixels[kept], [examples[index] for index in kept], skipped
