"""Recognizes the scene in an image, by the drawing that fits best.

A drawing is a mask m in two colours, b (1 - m) + c m. For a given m, linear regression of the image
I on m gives the best colours, and the squared error is smallest where the squared correlation of m
and I, summed over channels, is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invcap.data.decode import fit_image
from invcap.data.jitter import OFFSET, TILT
from invcap.data.shapes import COLOURS, PLACES, SHAPES, SIDE, SIZES, Scene, scale_range, shape_mask

STEPS = (-0.7, 0.0, 0.7)  # of the deviations that are tried, in the largest
OVERSAMPLING = 4
AT_ONCE = 100


@torch.no_grad()
def recognize(images: Sequence[Image.Image]) -> list[Scene]:
    """The scenes that images show, whatever the offset, size, tilt and shade within a factor."""
    pixels = np.stack([np.asarray(fit_image(image, (SIDE, SIDE))) for image in images])
    channels = torch.from_numpy(pixels).float().flatten(1, 2)
    named, masks, directions = _masks()
    found = []
    for some in channels.split(AT_ONCE):
        fit = sum((channel @ directions.T).square() for channel in some.unbind(2))
        for image, best in zip(some, fit.argmax(1).tolist(), strict=True):
            size, shape, place = named[best]
            shares = torch.stack([masks[best], 1 - masks[best]], 1)
            colour, background = map(_name, torch.linalg.lstsq(shares, image).solution)
            found.append(Scene(size, colour, shape, place, background))
    return found


@cache
def _masks() -> tuple[list[tuple[str, str, str]], Tensor, Tensor]:
    """Size, shape and place of M masks; the masks, (M, P); and, centred, of length 1, again."""
    named, masks = [], []
    for size, shape, place in product(SIZES, SHAPES, PLACES):
        scene = Scene(size, "white", shape, place, "black")
        smallest, largest = scale_range(size)
        tilts = (0.0,) if shape in ("circle", "ring") else STEPS
        for x, y, scale, tilt in product(STEPS, STEPS, (0.0, 0.5, 1.0), tilts):
            mask = shape_mask(
                scene,
                SIDE * OVERSAMPLING,
                (OFFSET * x, OFFSET * y),
                smallest + (largest - smallest) * scale,
                TILT * tilt,
            )
            named.append((size, shape, place))
            masks.append(np.asarray(mask.reduce(OVERSAMPLING), np.float32).ravel() / 255)
    every = torch.from_numpy(np.stack(masks))
    centred = every - every.mean(1, keepdim=True)
    return named, every, centred / centred.norm(dim=1, keepdim=True)


def _name(colour: Tensor) -> str:
    distances = (torch.tensor([*COLOURS.values()]) - colour).square().sum(1)
    return [*COLOURS][int(distances.argmin())]
