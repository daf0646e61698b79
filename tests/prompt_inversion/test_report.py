import numpy as np
import pytest
from PIL import Image

from invcap.figures import WINDOW, running_mean
from invcap.prompt_inversion import History
from invcap.prompt_inversion.report import bounds_figure, strip


@pytest.mark.parametrize("count", [0, 1, 10, 60])
def test_running_means_are_centred_and_skip_what_is_not_a_number(count):
    values = [2.0 * i for i in range(1, count + 1)]
    centres, means = running_mean(values)
    assert len(means) == len(centres) == max(0, count - min(WINDOW, max(1, count)) + 1)
    np.testing.assert_allclose(means, 2 * centres)
    _, spoiled = running_mean([np.nan, *values])
    np.testing.assert_allclose(spoiled, means)


def test_bounds_are_drawn_whatever_their_number():
    for training, evaluated in ([], [0]), ([-1.0, np.nan], [0, 2]):
        history = History(training, evaluated, [-1.0] * len(evaluated), rollbacks=0)
        (axes,) = bounds_figure([history, history]).axes
        assert len(axes.lines) == 4


def test_a_strip_shows_its_pictures_in_order_the_last_set_apart():
    row = np.asarray(strip([Image.new("RGB", (8, 4), c) for c in ("red", "lime", "blue")]))
    assert row.shape[0] == 128
    colours = [tuple(pixel) for pixel in row[64]]
    first = [colours.index(colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert first[0] == 0 and first[2] - first[1] > first[1] - first[0]
    assert colours.count((0, 0, 255)) == 256
