from hashlib import sha256
from itertools import combinations

import numpy as np
import pytest

from invcap.data import load_examples, split_by_group
from invcap.data.jitter import COLOUR, NOISE, OFFSET, SCALE, TILT
from invcap.data.shapes import (
    COLOURS,
    PLACES,
    SIZES,
    WORDINGS,
    Scene,
    draw,
    jitter_of,
    scale_range,
    scenes,
)

CLEAN = "542c46269b3aeea264b0c68a1d55c2a8463632923ffa8e18d5b4db599bac0ffa"  # every 97th scene


def test_there_are_over_twenty_thousand_scenes_each_with_a_caption_of_its_own():
    captions = {scene.caption() for scene in scenes()}
    assert len(captions) == len(list(scenes())) == 23760
    assert "a large red square in the center of the image, black background" in captions


@pytest.mark.slow
def test_no_two_scenes_look_the_same():
    some = [draw(scene).tobytes() for scene in scenes() if scene.background in ("black", "red")]
    assert len(set(some)) == len(some)


def test_a_scene_shows_its_colours_where_it_says():
    scene = Scene("large", "red", "square", "in the bottom left corner", "blue")
    picture = np.asarray(draw(scene))
    assert tuple(picture[24, 8]) == COLOURS["red"]
    assert tuple(picture[8, 24]) == COLOURS["blue"]


@pytest.mark.slow
def test_held_out_combinations_are_never_trained_on_whatever_the_wording():
    examples = load_examples("shapes", wordings=3).examples
    train, held_out = split_by_group(examples, 0.1, seed=0)
    said = {caption for i in train for caption in examples[i].captions}
    assert not any(caption in said for i in held_out for caption in examples[i].captions)
    assert 2000 < len(held_out) < 2800


def test_each_wording_names_all_five_factors():
    scene = Scene("small", "pink", "star", "at the top", "gray")
    for wording in range(len(WORDINGS)):
        caption = scene.caption(wording)
        assert all(word in caption for word in ("small", "pink", "star", "at the top", "gray"))


@pytest.mark.parametrize("wordings", [0, len(WORDINGS) + 1])
def test_a_number_of_wordings_that_is_not_there_is_refused(wordings):
    with pytest.raises(ValueError, match=f"wordings must be from 1 to 5, got {wordings}"):
        load_examples("shapes", wordings=wordings)


def test_the_clean_rendering_does_not_change_between_versions():
    pixels = b"".join(draw(scene).tobytes() for scene in list(scenes())[::97])
    assert sha256(pixels).hexdigest() == CLEAN


def test_a_drawing_is_the_same_again_and_another_number_or_seed_is_another_drawing():
    scene = Scene("large", "red", "square", "at the top", "blue")
    first = draw(scene, jitter=jitter_of(scene, 3))
    assert first.tobytes() == draw(scene, jitter=jitter_of(scene, 3)).tobytes()
    others = (jitter_of(scene, 4), jitter_of(scene, 3, seed=1))
    assert len({draw(scene, jitter=jitter).tobytes() for jitter in others} | {first.tobytes()}) == 3


def test_jitter_fills_its_limits_and_keeps_them():
    jitters = [jitter_of(scene, 0) for scene in list(scenes())[::19]]
    assert OFFSET * 0.9 < max(abs(x) for j in jitters for x in j.offset) <= OFFSET
    assert TILT * 0.9 < max(abs(j.tilt) for j in jitters) <= TILT
    assert 1 - SCALE <= min(j.scale for j in jitters) < 0.91
    assert 1.09 < max(j.scale for j in jitters) <= 1 + SCALE
    assert max(abs(c) for j in jitters for c in (*j.colour, *j.background)) == COLOUR
    assert len({(j.oversampling, j.resampling) for j in jitters}) == 9


def nearest(value: object, table: dict) -> str:
    return min(table, key=lambda name: np.linalg.norm(np.subtract(value, table[name])))


@pytest.mark.slow
def test_the_nearest_factor_of_every_drawing_is_the_one_that_its_caption_names():
    for scene in list(scenes())[::7]:
        jitter = jitter_of(scene, 0)
        assert nearest(SIZES[scene.size] * jitter.scale, SIZES) == scene.size
        assert nearest(np.add(PLACES[scene.place], jitter.offset), PLACES) == scene.place
        assert nearest(np.add(COLOURS[scene.colour], jitter.colour), COLOURS) == scene.colour


def test_ten_per_cent_of_the_radius_would_cross_to_another_size_only_below_large():
    assert scale_range("small") == scale_range("medium") == (1 - SCALE, 1 + SCALE)
    lowest, highest = scale_range("large")
    assert highest == 1 + SCALE
    assert nearest(SIZES["large"] * (1 - SCALE), SIZES) == "medium"
    assert lowest == pytest.approx(0.9052, abs=1e-4)


def test_colours_stay_apart_whatever_the_jitter():
    farthest = COLOUR * 3**0.5
    for one, other in combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 2 * farthest


def test_a_drawing_is_the_clean_rendering_moved_and_tinted_a_little():
    scene = Scene("medium", "green", "circle", "in the center", "gray")
    clean, drawn = (np.asarray(draw(scene, 32, j), float) for j in (None, jitter_of(scene, 0)))
    jitter = jitter_of(scene, 0)
    shift = (drawn - clean)[:4].reshape(-1, 3)
    assert shift.mean(0) == pytest.approx(jitter.background, abs=1)
    assert NOISE / 2 < shift.std(0).mean() < NOISE * 2
    assert np.abs(drawn - clean)[14:18, 14:18].max() <= COLOUR + 6 * NOISE


@pytest.mark.slow
def test_drawings_of_a_scene_are_one_group_under_one_caption():
    examples = load_examples("shapes", drawings=2).examples
    assert len(examples) == 2 * 23760
    one, other = examples[2 * 500 : 2 * 500 + 2]
    assert one.captions == other.captions and one.group == other.group
    assert (one.name, other.name) == (f"{one.name[:-2]}-0", f"{one.name[:-2]}-1")
    assert one.open().tobytes() != other.open().tobytes()
    clean = load_examples("shapes").examples[500]
    assert clean.group == one.group and clean.name == one.name[:-2]
    assert clean.captions == one.captions


@pytest.mark.slow
def test_the_identity_of_the_data_tells_how_it_is_drawn():
    identities = {load_examples("shapes", drawings=k).identity for k in (0, 1)}
    assert len(identities) == 2


def test_a_negative_number_of_drawings_is_refused():
    with pytest.raises(ValueError, match="drawings must be at least 0, got -1"):
        load_examples("shapes", drawings=-1)
