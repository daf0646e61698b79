from itertools import product

import numpy as np
import pytest
from another_hand import draw_by_hand

from invcap.data.shapes import COLOURS, PLACES, SHAPES, Scene, draw, scenes

SOME = list(scenes())[:: 23760 // 24][:24]


def test_a_picture_is_the_same_again_for_a_seed_and_another_for_another():
    scene = SOME[0]
    first, again, other = (draw_by_hand(scene, 32, seed).tobytes() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("scene", SOME, ids=Scene.caption)
def test_the_nearest_clean_rendering_in_shape_and_place_is_the_scene(scene: Scene):
    drawn = np.asarray(draw_by_hand(scene, 32, 0), float)
    clean = {
        (shape, place): np.asarray(
            draw(Scene(scene.size, scene.colour, shape, place, scene.background)), float
        )
        for shape, place in product(SHAPES, PLACES)
    }
    nearest = min(clean, key=lambda key: ((clean[key] - drawn) ** 2).mean())
    assert nearest == (scene.shape, scene.place)
    assert np.abs(clean[nearest] - drawn).max() > 10


def test_colours_are_nearest_to_their_names():
    for seed, scene in enumerate(SOME):
        pixels = np.asarray(draw_by_hand(scene, 32, seed), float)
        corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
        background = np.median(corners, 0)
        nearest = min(COLOURS, key=lambda name: np.linalg.norm(background - COLOURS[name]))
        assert nearest == scene.background
