"""Both ways in which a CPU multiplies, at the sizes where its kernels work differently."""

import pytest
import torch
from layer_references import FUNCTIONS, make_case, relative_error

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
SIZES = (1, 33, *(pytest.param(n, marks=pytest.mark.slow) for n in (31, 32, 100)))


def outcome(function, case, grad):
    """Value and gradients."""
    case, leaves = case.leaves()
    result = function(*case.arguments)
    return result.detach(), *torch.autograd.grad(result, leaves, grad)


@pytest.fixture(params=(True, False), ids=("micro-kernels", "ATen"))
def one_dnn(request):
    with torch.backends.mkldnn.flags(enabled=request.param):
        yield request.param


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", SIZES)
# A few rows and one more, a padded tile, full ones, and more rows than a weight gradient takes
# at a time.
@pytest.mark.parametrize("rows", (1, 4, 5, 16, 63, 64, 65, 513))
def test_every_implementation_gives_the_result_of_the_dense_float64_reference(
    name: str, dtype: torch.dtype, n: int, rows: int, one_dnn: bool
) -> None:
    function, dense = FUNCTIONS[name]
    case = make_case(n, rows, dtype)
    y = dense(*case.double().arguments) if name == "lu_leaky" else case.rows
    # Where y is near zero, rounding may decide its sign.
    grad = make_case(n, rows, dtype, seed=1).rows * (y.abs() > 1e-3)
    got = outcome(function, case, grad)
    want = outcome(dense, case.double(), grad.double())
    for got_one, want_one in zip(got, want, strict=True):
        assert relative_error(got_one, want_one) < TOLERANCE[dtype]
    with torch.no_grad():
        assert relative_error(function(*case.arguments), want[0]) < TOLERANCE[dtype]


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_number_of_threads_gives_the_same(name: str, threads: int) -> None:
    function, _ = FUNCTIONS[name]
    before = torch.get_num_threads()
    for rows in (2, 200):
        case = make_case(100, rows, torch.float32)
        grad = make_case(100, rows, torch.float32, seed=1).rows
        want = outcome(function, case, grad)
        try:
            torch.set_num_threads(threads)
            got = outcome(function, case, grad)
        finally:
            torch.set_num_threads(before)
        for got_one, want_one in zip(got, want, strict=True):
            assert relative_error(got_one, want_one) < 1e-5
