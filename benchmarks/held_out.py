"""Drawings of shapes that no training has seen."""

from random import Random

from PIL import Image

from invcap.data import split_by_group
from invcap.data.shapes import Scene, draw, jitter_of, load_shapes, scenes

EVERY = tuple(scenes())


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Some of the scenes whose combination of factors is in no training set."""
    _, held_out = split_by_group(load_shapes().examples, 0.1, seed=0)
    return [EVERY[index] for index in Random(seed).sample(held_out, count)]


def drawing(scene: Scene) -> Image.Image:
    """The drawing of a scene, with deviations of its own, that a benchmark looks at."""
    return draw(scene, jitter=jitter_of(scene, 0))
