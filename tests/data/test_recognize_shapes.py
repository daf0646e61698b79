from random import Random

import pytest

from invcap.data.recognize_shapes import recognize
from invcap.data.shapes import draw, jitter_of, scenes

pytestmark = pytest.mark.slow  # thousands of masks are drawn first
SOME = Random(0).sample(list(scenes()), 60)


def test_clean_renderings_are_recognized_at_any_size():
    assert recognize([draw(scene) for scene in SOME]) == SOME
    assert recognize([draw(scene, 96) for scene in SOME]) == SOME


def test_drawings_are_recognized_whatever_their_offset_size_tilt_and_shades():
    found = recognize([draw(scene, jitter=jitter_of(scene, 7)) for scene in SOME])
    for factor in ("colour", "shape", "place", "background"):
        names = [[getattr(scene, factor) for scene in some] for some in (found, SOME)]
        assert names[0] == names[1], factor
    assert sum(one.size == other.size for one, other in zip(found, SOME, strict=True)) >= 54
