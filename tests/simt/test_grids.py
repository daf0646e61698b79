"""How launches share out work and traffic, as the harness recorded it."""

import numpy as np
import pytest
from simt_build import CSRC
from simt_calls import Chip, kernels, recording
from test_kernels import DTYPES, Case

pytestmark = pytest.mark.slow

# Rows too long for shared memory, in tiles of 128: products out of place.
CHIP = Chip(shared_limit=48 << 10, processors=1)
N, ROWS = 320, 1024
COLUMN_BLOCKS = N // 64


@pytest.fixture(scope="module")
def loaded():
    return kernels()


def launches(case: Case, operation: str, chip: Chip = CHIP, cache_bytes=0) -> list[np.ndarray]:
    """The records of each launch, block after block in the order of the grid."""
    with recording(case.network.loaded, cache_bytes) as found:
        getattr(case, operation)(chip)
    return [found[0][found[0]["launch"] == i] for i in np.unique(found[0]["launch"])]


@pytest.fixture(scope="module")
def products(loaded) -> Case:
    return Case(loaded, "bfloat16", N, ROWS)


def test_a_product_reads_its_rows_once_and_keeps_the_weights_in_the_cache(products):
    rows, weights = 2 * ROWS * N, 2 * N * N
    for launch in launches(products, "forward", cache_bytes=weights + rows // 4):
        # Whole lines are fetched, those on the triangle's edge with the other triangle's numbers.
        assert rows <= launch["fetched"].sum() <= 1.1 * (rows + weights)


def test_the_column_blocks_of_a_tile_of_rows_start_with_the_longest(products):
    for operation in ("forward", "backward"):
        *_, first, second = launches(products, operation)
        for launch in (first, second):
            fetched = launch["fetched"].reshape(-1, COLUMN_BLOCKS)
            assert (np.diff(fetched) < 0).all()


def test_all_blocks_of_a_weight_gradient_have_the_same_amount_of_work(loaded):
    for n in (64, 129):
        case = Case(loaded, "float32", n, 100)
        barriers = launches(case, "weight_gradient", Chip())[0]["barriers"]
        assert (barriers == barriers[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposed_store_has_no_bank_conflicts(loaded, dtype):
    launches(Case(loaded, dtype, 64, 64), "weight_gradient", Chip())
    file = "weight_gradient.cuh"
    lines = (CSRC / "cuda" / file).read_text().splitlines()
    (line,) = (i for i, text in enumerate(lines, start=1) if "left_tile[(inner" in text)
    assert loaded.conflicts(file.encode(), line) == 1


def test_short_rows_are_solved_in_one_launch_on_a_small_chip(loaded):
    """99 KiB: 64 rows of 384 float32 do not fit, 16 do."""
    chip = Chip(shared_limit=99 << 10, processors=1)
    case = Case(loaded, "float32", 384, 40)
    assert case.network.is_on_chip(40, solves=True, chip=chip)
    case.check(case.inverse(chip))
    long = Case(loaded, "float32", 577, 40)
    assert not long.network.is_on_chip(40, solves=True, chip=chip)
