import numpy as np
import pytest

from invcap.data import load_examples, split_by_group
from invcap.data.shapes import COLOURS, WORDINGS, Scene, draw, scenes


def test_there_are_over_twenty_thousand_scenes_each_with_a_caption_of_its_own():
    captions = {scene.caption() for scene in scenes()}
    assert len(captions) == len(list(scenes())) == 23760
    assert "a large red square in the center of the image, black background" in captions


def test_no_two_scenes_look_the_same():
    some = [draw(scene).tobytes() for scene in scenes() if scene.background in ("black", "red")]
    assert len(set(some)) == len(some)


def test_a_scene_shows_its_colours_where_it_says():
    scene = Scene("large", "red", "square", "in the bottom left corner", "blue")
    picture = np.asarray(draw(scene))
    assert tuple(picture[24, 8]) == COLOURS["red"]
    assert tuple(picture[8, 24]) == COLOURS["blue"]


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
