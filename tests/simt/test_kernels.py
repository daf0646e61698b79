"""Every CUDA kernel on the CPU, through its own launcher, against float64.

All sizes, batches and arithmetics run in all four orders: two orders on a chip of 132 processors,
where a batch is split into tiles of 16 rows, two on one of a single processor, where it goes into
tiles of 64. The kernels for rows too long for shared memory run on a chip that has little of it.
Weights are large enough that every part of a product counts, both signs of z occur, lu's diagonal
is NaN (nobody may read it), and so is what outputs hold before.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from reference import DTYPES, Layer, rounded, weight_gradient, widened
from simt_calls import ORDERS, Chip, Guarded, Network, kernels, squared_error

pytestmark = pytest.mark.slow

SIZES = (1, 2, 31, 33, 64, 96, 127, 128, 129, 384)
BATCHES = (1, 3, 16, 33, 100)
# Largest errors found over SIZES x BATCHES, in units of the largest element: 1.1e-6, 6.3e-7,
# 1.8e-15, 8.2e-4, 8.2e-3; of networks of two layers 1.1e-6, 9.9e-7, 2.4e-15, 1.1e-3, 1.5e-2.
# float16 and bfloat16 round what lies between two products, 5e-4 and 4e-3 at a time.
TOLERANCE = {
    "float32": 3e-6,
    "tf32x3": 3e-6,
    "float64": 5e-15,
    "float16": 2e-3,
    "bfloat16": 2e-2,
}
PROCESSORS = {"ascending": 132, "descending": 1, "random": 1, "warp_ahead": 132}


@pytest.fixture(scope="module")
def loaded():
    return kernels()


class Case:
    """One network, rows for it, and what they must become."""

    def __init__(
        self, loaded, math: str, n: int, rows: int,
        depth=1, diagonal=0.9, slope=0.3, bias=True, positive=False,
    ):  # fmt: skip
        generator = np.random.default_rng(n * 1000 + rows)

        def draw(shape):
            normal = generator.standard_normal(shape)
            return np.abs(normal) if positive else normal

        lus = [0.5 / np.sqrt(n * depth) * draw((n, n)) for _ in range(depth)]
        biases = [draw(n) if bias else None for _ in range(depth)]
        for lu in lus:
            np.fill_diagonal(lu, np.nan)
        dtype = "float32" if math == "tf32x3" else math
        self.n, self.rows, self.depth, self.tolerance = n, rows, depth, depth * TOLERANCE[math]
        self.network = Network(loaded, dtype, lus, biases, diagonal, slope, math == "tf32x3")
        slopes = [slope] * (depth - 1) + [slope if depth == 1 else 1.0]
        self.layers = [
            Layer.of(np.nan_to_num(widened(lu)), 0 if b is None else widened(b), diagonal, s)
            for lu, b, s in zip(self.network.lus, self.network.biases, slopes, strict=True)
        ]
        self.x = rounded(draw((rows, n)), dtype)
        self.y, self.h = widened(self.x), None
        for layer in self.layers:
            self.y, self.h = layer.forward(self.y)
        self.y_rounded, self.h_rounded = rounded(self.y, dtype), rounded(self.h, dtype)
        self.grad = rounded(draw((rows, n)), dtype)

    def shapes(self, *names: str) -> dict:
        return dict.fromkeys(names, (self.rows, self.n))

    def forward(self, chip: Chip) -> list:
        alone = self.depth > 1 and self.network.is_on_chip(self.rows, solves=False, chip=chip)
        names = ("out",) if alone else ("out", "out_h")
        found = self.network.run(chip, "forward", self.rows, self.shapes(*names), x=self.x)
        return list(zip(found, (self.y, self.h), strict=False))

    def inverse(self, chip: Chip) -> list:
        self.network.forget_inverses()
        names = ("out", "out_h") if self.depth == 1 else ("out",)
        found = self.network.run(chip, "inverse", self.rows, self.shapes(*names), y=self.y_rounded)
        x, h = widened(self.y_rounded), None
        for layer in reversed(self.layers):
            x, h = layer.inverse(x)
        return list(zip(found, (x, h), strict=False))

    def row_backward(self, chip: Chip, name: str) -> list:
        names = self.shapes("out", "out_gz", "out_gh")
        found = self.network.run(chip, name, self.rows, names, grad=self.grad, y=self.y_rounded)
        expected = getattr(self.layers[0], name)(widened(self.grad), widened(self.y_rounded))
        return list(zip(found, expected, strict=True))

    def backward(self, chip: Chip) -> list:
        return self.row_backward(chip, "backward")

    def inverse_backward(self, chip: Chip) -> list:
        self.network.forget_inverses()
        return self.row_backward(chip, "inverse_backward")

    def weight_gradient(self, chip: Chip) -> list:
        arrays = {"gz": self.grad, "h": self.h_rounded, "gh": self.y_rounded, "x": self.x}
        work = self.network.gradient_work(self.rows)
        shapes = {"out_glu": (self.n, self.n), "out_gb": (self.n,)}
        found = self.network.run(
            chip, "weight_gradient", self.rows, shapes, work=work, sign=-1.0, **arrays
        )
        assert not widened(found[0]).diagonal().any()
        expected = weight_gradient(*map(widened, arrays.values()), -1.0)
        return list(zip(found, expected, strict=True))

    def check(self, results: list) -> None:
        for found, expected in results:
            error = np.abs(widened(found) - expected).max()
            assert error <= self.tolerance * np.abs(expected).max()


PRODUCTS = (Case.forward, Case.backward)
OPERATIONS = (*PRODUCTS, Case.inverse, Case.inverse_backward, Case.weight_gradient)


@cache
def case(math: str, n: int, rows: int, depth: int = 1) -> Case:
    return Case(kernels(), math, n, rows, depth)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("math", TOLERANCE)
def test_every_operation_and_a_network_agree_with_float64(math, n, order):
    chip = Chip(order, seed=n, processors=PROCESSORS[order])
    for rows in BATCHES:
        for operation in OPERATIONS:
            case(math, n, rows).check(operation(case(math, n, rows), chip))
        network = case(math, n, rows, depth=2)
        for direction in (Case.forward, Case.inverse):
            network.check(direction(network, chip))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("math", TOLERANCE)
def test_rows_too_long_for_shared_memory_agree_with_float64(math, order):
    """Products out of place with trimmed K, layer by layer; nothing is solved."""
    processors = 1 if order in ("ascending", "random") else 132  # tiles of 128 rows, or of 16
    chip = Chip(order, shared_limit=96 << 10, processors=processors)
    for n, rows in ((577, 33), (768, 40)):
        if math in ("float64", "tf32x3") or n == 577:
            for operation in PRODUCTS:
                case(math, n, rows).check(operation(case(math, n, rows), chip))
    network = case(math, 577, 33, depth=2)
    if "16" in math:  # takes half the bytes, and 96 KiB would hold it
        chip = replace(chip, shared_limit=64 << 10)
    assert not network.network.is_on_chip(33, solves=False, chip=chip)
    network.check(network.forward(chip))


@pytest.mark.parametrize("math", TOLERANCE)
def test_a_network_of_more_layers_than_a_launch_takes_agrees_with_float64(loaded, math):
    network = Case(loaded, math, 2, 5, depth=66, diagonal=-1.0, slope=1.0)
    for order in ORDERS:
        network.check(network.forward(Chip(order)))
        network.check(network.inverse(Chip(order)))


@pytest.mark.parametrize("math", TOLERANCE)
@pytest.mark.parametrize("rows", [3, 100])
def test_results_have_the_same_bits_in_every_order(math, rows):
    for operation in OPERATIONS:
        runs = [
            [found.tobytes() for found, _ in operation(case(math, 129, rows), Chip(order, seed))]
            for seed, order in enumerate([*ORDERS, "random"])
        ]
        assert all(run == runs[0] for run in runs)


def test_a_diagonal_block_is_inverted_once_until_it_changes(loaded):
    layer = Case(loaded, "float32", 192, 3)
    layer.inverse(Chip())
    (guarded,) = layer.network.inverses
    inverted = guarded.array[: 3 * 64 * 64].reshape(3, -1)
    arrays = {"rows": 3, "results": layer.shapes("out"), "y": layer.y_rounded}
    for changed in ([], [1], [0, 2]):
        for block in changed:
            layer.network.lus[0][64 * block, 64 * block + 5] += 1
        inverted[:] = np.nan
        layer.network.run(Chip(), "inverse", **arrays)
        assert [block for block in range(3) if not np.isnan(inverted[block]).any()] == changed


def test_a_layer_without_bias_agrees_with_float64(loaded):
    for rows in (3, 33):
        bare = Case(loaded, "float32", 64, rows, bias=False)
        bare.check(bare.forward(Chip()))
        bare.check(bare.inverse(Chip()))


def moved(array: np.ndarray) -> np.ndarray:
    """The same, one element behind a boundary of 16 bytes."""
    result = Guarded(array.shape, array.dtype, shift=1).array
    result[:] = array
    return result


@pytest.mark.parametrize("what", ["rows", "lu", "bias", "results"])
@pytest.mark.parametrize("math", TOLERANCE)
def test_arrays_that_do_not_start_at_16_bytes_agree_with_float64(loaded, math, what):
    for n, rows, chip in ((64, 33, Chip()), (64, 3, Chip()), (576, 5, Chip(shared_limit=96 << 10))):
        shifted = Case(loaded, math, n, rows)
        network = shifted.network
        if what == "rows":
            for name in ("x", "y_rounded", "h_rounded", "grad"):
                setattr(shifted, name, moved(getattr(shifted, name)))
        elif what == "lu":
            network.lus = [moved(network.lus[0])]
        elif what == "bias":
            network.biases = [moved(network.biases[0])]
        else:
            network.shift = 1
        for operation in OPERATIONS if n == 64 else PRODUCTS:
            shifted.check(operation(shifted, chip))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_infinity_gives_the_result_of_plain_float32(loaded, operation):
    found = []
    for math in ("float32", "tf32x3"):
        infinite = Case(loaded, math, 96, 33)
        for array in (infinite.x, infinite.y_rounded, infinite.grad):
            array[2, 40], array[7, 90] = np.inf, -np.inf
        infinite.network.lus[0][90, 3] = np.inf
        with np.errstate(all="ignore"):
            found.append([result for result, _ in operation(infinite, Chip())])
    for plain, split in zip(*found, strict=True):
        assert not np.isfinite(plain).all()
        np.testing.assert_array_equal(np.isnan(split), np.isnan(plain))
        infinities = np.isinf(plain)
        np.testing.assert_array_equal(split[infinities], plain[infinities])


def test_sums_of_a_thousand_terms_of_one_sign_keep_the_accuracy_of_float32(loaded):
    """Tensor cores cut sums off: errors add up where all products go into one of them, to 4e-5.

    Found with sums of eight products: 7e-7, and 1.8e-6 in float32.
    """
    errors = []
    for math in ("float32", "tf32x3"):
        sums = Case(loaded, math, 1024, 5, positive=True)
        errors.append(max(np.abs(a - b).max() / np.abs(b).max() for a, b in sums.forward(Chip())))
    assert errors[1] <= errors[0] <= 3e-6


def test_three_tf32_products_are_as_accurate_as_float32():
    for operation in OPERATIONS:
        errors = [
            max(np.abs(widened(found) - expected).max() / np.abs(expected).max()
                for found, expected in operation(case(math, 384, 100), Chip()))
            for math in ("float32", "tf32x3")
        ]  # fmt: skip
        assert errors[1] <= 4 * errors[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 255, 4096])
@pytest.mark.parametrize("order", ORDERS)
def test_the_squared_error_of_each_picture_agrees_with_float64(loaded, dtype, size, order):
    generator = np.random.default_rng(size)
    predicted, noise = (rounded(generator.standard_normal((3, size)), dtype) for _ in range(2))
    weight = generator.random(3)
    loss, gradient = squared_error(loaded, Chip(order), dtype, predicted, noise, weight)
    difference = widened(predicted) - widened(noise)
    np.testing.assert_allclose(loss, weight * (difference**2).sum(1), rtol=1e-5)
    slope = 2 * weight[:, None] * difference
    assert np.abs(widened(gradient) - slope).max() <= TOLERANCE[dtype] * np.abs(slope).max()
