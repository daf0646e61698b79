"""Pictures of shapes that no training has seen, and whether what is drawn shows the same."""

from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
from PIL import Image

from invcap.data import fit_image, split_by_group
from invcap.data.shapes import Scene, draw, load_shapes, scenes
from invcap.tiny_sd.evaluate import accuracies

EVERY = tuple(scenes())


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Some of the scenes whose combination of factors is in no training set."""
    _, held_out = split_by_group(load_shapes().examples, 0.1, seed=0)
    return [EVERY[index] for index in Random(seed).sample(held_out, count)]


def drawn_right(
    drawn: Sequence[Image.Image], asked: Sequence[Scene], among: Sequence[Scene] = EVERY
) -> dict[str, float]:
    """For each factor, the share of images whose nearest rendered picture has it as asked.

    Args:
        among: the scenes that are rendered.
    """
    pixels = np.stack([np.asarray(image) for image in drawn])
    return accuracies(pixels, asked, _rendered(tuple(among), pixels.shape[1:3]), among)


@cache
def _rendered(some: tuple[Scene, ...], size: tuple[int, int]) -> np.ndarray:
    return np.stack([fit_image(draw(scene), size) for scene in some])
