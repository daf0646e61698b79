"""The predictions of docs/cuda.md are those of the script, and count what moves."""

from pathlib import Path

import cuda_predictions
import pytest
from cuda_predictions import BF16, FFMA, TF32

DOCS = Path(__file__).parents[2] / "docs" / "cuda.md"


def test_the_page_shows_what_the_script_prints(capsys):
    cuda_predictions.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    page = DOCS.read_text().splitlines()
    assert [line for line in printed if line not in page] == []


def test_weights_that_fit_in_the_cache_are_read_once_and_others_by_every_group_of_rows():
    assert cuda_predictions.times_read(16e6, 100) == 1
    assert cuda_predictions.times_read(33e6, 100) == 100
    assert cuda_predictions.times_read(33e6, 0.1) == 1


@pytest.mark.parametrize("math", (FFMA, TF32, BF16), ids=lambda math: math.name)
@pytest.mark.parametrize("n", cuda_predictions.SIZES)
@pytest.mark.parametrize("rows", cuda_predictions.BATCHES)
def test_nothing_is_predicted_to_beat_the_floor_of_its_hardware(math, n, rows):
    """The floor of one layer: all of its bytes, and as many flops as one dense product."""
    floor = cuda_predictions.floor(math, n, rows)
    for ours, cublas in cuda_predictions.OPERATIONS.values():
        assert ours(math, n, rows) > floor
        assert cublas(math, n, rows) > floor / math.products
