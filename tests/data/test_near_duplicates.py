import numpy as np
import pytest
from PIL import Image, ImageDraw

from invcap.data.near_duplicates import colours, connected, difference_hash, near_duplicates


def drawing(seed: int, side: int = 120, shift: int = 0) -> Image.Image:
    numbers = np.random.default_rng(seed)
    picture = Image.new("RGB", (side, side), "white")
    for _ in range(6):
        left, top, width, height = numbers.uniform(0.05, 0.5, 4) * side
        colour = tuple((numbers.integers(0, 220, 3) + shift).tolist())
        ImageDraw.Draw(picture).ellipse((left, top, left + width, top + height), colour)
    return picture


def pairs(*pictures: Image.Image) -> list[list[int]]:
    hashes = np.stack([difference_hash(picture) for picture in pictures])
    return near_duplicates(hashes, np.stack([colours(picture) for picture in pictures])).tolist()


def test_a_smaller_or_slightly_tinted_copy_is_a_near_duplicate():
    copies = drawing(0), drawing(0).resize((50, 50)), drawing(0, shift=12)
    assert pairs(*copies, drawing(1)) == [[0, 1], [0, 2], [1, 2]]


def test_different_drawings_are_not():
    assert pairs(*(drawing(seed) for seed in range(40))) == []


def test_one_shape_in_two_colours_is_not():
    plain = Image.new("RGB", (90, 60), "red")
    assert pairs(plain, Image.new("RGB", (90, 60), "blue")) == []


def test_pairs_are_found_wherever_they_stand_among_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("invcap.data.near_duplicates.ROWS_AT_ONCE", 3)
    pictures = [drawing(seed) for seed in (5, 1, 2, 3, 4, 5, 6, 7, 2)]
    assert sorted(pairs(*pictures)) == [[0, 5], [2, 8]]


def test_equal_keys_and_pairs_join_over_several_steps():
    keys = ["a", "b", "c", "a", "d", "e", "e"]
    assert connected(keys, [(1, 3), (4, 6)]) == [0, 0, 2, 0, 4, 4, 4]


def test_images_without_a_common_key_or_pair_are_not_joined():
    assert connected(["a", "b", "c"], []) == [0, 1, 2]
