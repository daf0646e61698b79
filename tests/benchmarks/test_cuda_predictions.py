"""The predictions of docs/cuda.md are those of the script, and count what moves."""

from pathlib import Path

import cuda_predictions
import pytest
import torch
from cuda_predictions import BF16, MATHS, TF32

from invcap_ext._C import dense_rows, kept_rows
from invcap_ext.functional import NEVER

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


@pytest.mark.parametrize("math", MATHS, ids=lambda math: math.name)
def test_a_layer_is_predicted_the_way_that_a_gpu_takes(math):
    dtype = torch.bfloat16 if math is BF16 else torch.float32
    gpu = torch.device("cuda")
    torch.set_float32_matmul_precision("high" if math is TF32 else "highest")
    try:
        for n in (64, 255, 256, 384, 511, 512, 1024, 2048, 4096):
            least = dense_rows(n, dtype, gpu)
            meeting = () if least == NEVER else (least - 1, least)
            for rows in (*meeting, *cuda_predictions.BATCHES):
                assert cuda_predictions.takes_dense(math, n, rows) == (rows >= least)
            assert cuda_predictions.keeps_inverse(math) == (kept_rows(n, dtype, gpu) == 0)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("math", MATHS, ids=lambda math: math.name)
@pytest.mark.parametrize("n", cuda_predictions.SIZES)
@pytest.mark.parametrize("rows", cuda_predictions.BATCHES)
def test_nothing_is_predicted_to_beat_the_floor_of_its_hardware(math, n, rows):
    """The floor of one layer: all of its bytes, and as many flops as one dense product.

    Three TF32 products are not what a dense layer takes, and neither what a merged one does.
    """
    floor = cuda_predictions.floor(math, n, rows)
    for name, (ours, cublas) in cuda_predictions.OPERATIONS.items():
        assert ours(math, n, rows) > floor / (math.products if name == "merged inverse" else 1)
        assert cublas(math, n, rows) > floor / math.products
