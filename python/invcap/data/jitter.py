"""Random deviations of a drawing of a scene from the clean rendering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

OFFSET = 0.05  # of the side, each way
SCALE = 0.1
TILT = 8.0  # degrees, each way
COLOUR = 14  # of 255, in each channel, each way
NOISE = 2.0  # standard deviation, of 255
OVERSAMPLINGS = (2, 3, 4)
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Jitter:
    """One drawing's own deviations.

    Attributes:
        offset: (right, down) over the picture's side.
        scale: of the shape's radius.
        tilt: degrees, counter-clockwise.
        colour, background: added to the channels of the shape and of the background.
        oversampling, resampling: how edges are anti-aliased.
        noise_seed: of the noise of its pixels.
    """

    offset: tuple[float, float]
    scale: float
    tilt: float
    colour: tuple[int, int, int]
    background: tuple[int, int, int]
    oversampling: int
    resampling: Image.Resampling
    noise_seed: int


def random_jitter(generator: np.random.Generator, scales: tuple[float, float]) -> Jitter:
    """Deviations, each uniform within the limits above; the scale within `scales`."""
    right, down = generator.uniform(-OFFSET, OFFSET, 2)
    return Jitter(
        offset=(float(right), float(down)),
        scale=float(generator.uniform(*scales)),
        tilt=float(generator.uniform(-TILT, TILT)),
        colour=_shift(generator),
        background=_shift(generator),
        oversampling=OVERSAMPLINGS[generator.integers(len(OVERSAMPLINGS))],
        resampling=FILTERS[generator.integers(len(FILTERS))],
        noise_seed=int(generator.integers(2**32)),
    )


def _shift(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = generator.integers(-COLOUR, COLOUR, 3, endpoint=True).tolist()
    return red, green, blue


def shifted(colour: tuple[int, int, int], by: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour with something added to its channels, within 0 to 255."""
    red, green, blue = (min(max(c + d, 0), 255) for c, d in zip(colour, by, strict=True))
    return red, green, blue


def add_noise(picture: Image.Image, seed: int) -> Image.Image:
    """Normal noise in every channel of every pixel of an RGB picture."""
    pixels = np.asarray(picture, np.float32)
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32) * NOISE
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))
