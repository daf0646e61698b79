"""Values and gradients of `lu_leaky` and `lu_leaky_inverse` against dense float64 twins."""

import pytest
import torch
from layer_references import FUNCTIONS, Case, make_case, relative_error
from torch import Tensor

SIZES = (1, 2, 31, 33, 384, pytest.param(1024, marks=pytest.mark.slow))
BATCHES = (0, 1, 7, 256)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BACKWARD = {
    "lu_leaky": torch.ops.invcap.lu_leaky_backward.default,
    "lu_leaky_inverse": torch.ops.invcap.lu_leaky_inverse_backward.default,
}

# Largest relative errors over SIZES x BATCHES, both functions: float64 3.8e-15 in values and
# 5.6e-15 in gradients, float32 6.3e-7 and 1.6e-6, bfloat16 3.4e-3 and 4.8e-3, float16 4.4e-4 and
# 6.0e-4. The last two are one or two roundings of the result: half-precision sums would not pass.
VALUE_TOLERANCE = dict(zip(DTYPES, (2e-14, 2e-6, 6e-3, 8e-4), strict=True))
GRADIENT_TOLERANCE = dict(zip(DTYPES, (3e-14, 5e-6, 1e-2, 1.2e-3), strict=True))

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def away_from_zero(grad: Tensor, y: Tensor) -> Tensor:
    """grad without the entries where rounding may decide on which side of zero y lies."""
    return torch.where(y.abs() > 1e-3, grad, 0)


def gradients(function, case: Case, grad: Tensor) -> tuple[Tensor, ...]:
    case, leaves = case.leaves()
    return torch.autograd.grad(function(*case.arguments), leaves, grad)


@pytest.mark.parametrize("n", SIZES[1:])
def test_the_test_weights_bend_rows_and_are_far_from_the_identity(n: int) -> None:
    for _, dense in FUNCTIONS.values():
        case = make_case(n, 256)
        result = dense(*case.arguments)
        assert 0.2 < (result < 0).double().mean() < 0.8
        assert relative_error(result, case.rows) > 0.1
        flat = dense(*case.arguments[:4], 1.0)
        assert relative_error(result, flat) > 0.1


@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n", SIZES)
def test_values_are_those_of_the_dense_float64_twin(
    name: str, n: int, batch: int, dtype: torch.dtype
) -> None:
    function, dense = FUNCTIONS[name]
    case = make_case(n, batch, dtype)
    result = function(*case.arguments)
    assert result.dtype == dtype
    assert relative_error(result, dense(*case.double().arguments)) < VALUE_TOLERANCE[dtype]


@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("n", SIZES)
def test_gradients_are_those_of_autograd_through_the_dense_float64_twin(
    name: str, n: int, batch: int, dtype: torch.dtype
) -> None:
    function, dense = FUNCTIONS[name]
    case = make_case(n, batch, dtype)
    y = dense(*case.double().arguments) if name == "lu_leaky" else case.rows
    grad = away_from_zero(make_case(n, batch, dtype, seed=1).rows, y)
    got = gradients(function, case, grad)
    want = gradients(dense, case.double(), grad.double())
    for got_one, want_one in zip(got, want, strict=True):
        assert got_one.dtype == dtype
        assert relative_error(got_one, want_one) < GRADIENT_TOLERANCE[dtype]


@each_function
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
@pytest.mark.parametrize("negative_slope", (0.1, 0.5, 1.0, 2.0))
@pytest.mark.parametrize("diagonal", (1.0, -0.8, 1.5))
def test_every_diagonal_and_slope_with_and_without_bias_matches_the_dense_twin(
    name: str, diagonal: float, negative_slope: float, bias: bool
) -> None:
    function, dense = FUNCTIONS[name]
    case = make_case(33, 7, diagonal=diagonal, negative_slope=negative_slope, bias=bias)
    grad = make_case(33, 7, seed=1).rows
    assert relative_error(function(*case.arguments), dense(*case.arguments)) < 1e-12
    got, want = gradients(function, case, grad), gradients(dense, case, grad)
    assert len(got) == (3 if bias else 2)
    for got_one, want_one in zip(got, want, strict=True):
        assert relative_error(got_one, want_one) < 1e-12


@each_function
@pytest.mark.parametrize("n", SIZES)
def test_the_diagonal_of_lu_is_ignored_even_where_it_is_nan(name: str, n: int) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(n, 7)
    grad = make_case(n, 7, seed=1).rows
    want = function(*case.arguments), *gradients(function, case, grad)
    case.lu.fill_diagonal_(torch.nan)
    got = function(*case.arguments), *gradients(function, case, grad)
    for got_one, want_one in zip(got, want, strict=True):
        assert torch.equal(got_one, want_one)


@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_the_gradient_on_the_diagonal_of_lu_is_exactly_zero(
    name: str, n: int, dtype: torch.dtype
) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(n, 7, dtype)
    _, glu, _ = gradients(function, case, make_case(n, 7, dtype, seed=1).rows)
    assert (glu.diagonal() == 0).all()
    assert n == 1 or (glu != 0).any()


@each_function
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
@pytest.mark.parametrize("n", (1, 2, 5))
def test_gradcheck_and_gradgradcheck_pass(name: str, n: int, bias: bool) -> None:
    function, _ = FUNCTIONS[name]
    case, leaves = make_case(n, 3, bias=bias).leaves()

    def of_leaves(rows: Tensor, lu: Tensor, b: Tensor | None = None) -> Tensor:
        return function(rows, lu, b, case.diagonal, case.negative_slope)

    assert function(*case.arguments).abs().min() > 1e-3  # no kink within a finite difference
    assert case.rows.abs().min() > 1e-3
    assert torch.autograd.gradcheck(of_leaves, leaves)
    assert torch.autograd.gradgradcheck(of_leaves, leaves)


@each_function
def test_gradcheck_and_gradgradcheck_pass_where_a_row_spans_two_blocks(name: str) -> None:
    function, _ = FUNCTIONS[name]
    case, leaves = make_case(67, 2).leaves()

    def of_leaves(rows: Tensor, lu: Tensor, b: Tensor) -> Tensor:
        return function(rows, lu, b, case.diagonal, case.negative_slope)

    assert torch.autograd.gradcheck(of_leaves, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(of_leaves, leaves, fast_mode=True)


@each_function
@pytest.mark.parametrize("n", (2, 33, 384))
def test_second_derivatives_are_those_of_autograd_through_the_dense_twin(name: str, n: int) -> None:
    case = make_case(n, 7)
    grad = make_case(n, 7, seed=1).rows
    directions = make_case(n, 7, seed=2)

    def second(function) -> tuple[Tensor, ...]:
        leaf_case, leaves = case.leaves()
        leaf_grad = grad.clone().requires_grad_()
        result = function(*leaf_case.arguments)
        first = torch.autograd.grad(result, leaves, leaf_grad, create_graph=True)
        along = (directions.rows, directions.lu, directions.bias)
        total = sum((a * b).sum() for a, b in zip(first, along, strict=True))
        # The bias moves first derivatives only across kinks: nothing depends on it.
        return torch.autograd.grad(total, [*leaves[:2], leaf_grad])

    function, dense = FUNCTIONS[name]
    for got, want in zip(second(function), second(dense), strict=True):
        assert relative_error(got, want) < 1e-11


@each_function
@pytest.mark.parametrize("shape", ((), (2, 3), (2, 0, 3), (1, 1, 1)), ids=str)
def test_leading_dimensions_of_any_number_are_rows(name: str, shape: tuple[int, ...]) -> None:
    function, _ = FUNCTIONS[name]
    n = 33
    case, (rows, lu, bias) = make_case(n, torch.Size(shape).numel()).leaves()
    flat = function(*case.arguments)
    got = function(rows.reshape(*shape, n), *case.arguments[1:])
    assert got.shape == (*shape, n)
    torch.testing.assert_close(got.reshape(-1, n), flat, rtol=0, atol=0)
    leaves = (rows, lu, bias)
    grad = make_case(n, len(rows), seed=1).rows
    want = torch.autograd.grad(flat, leaves, grad)
    for got_one, want_one in zip(
        torch.autograd.grad(got, leaves, grad.reshape(got.shape)), want, strict=True
    ):
        assert torch.equal(got_one, want_one)


def transposed(a: Tensor) -> Tensor:
    return a.mT.contiguous().mT


def strided(a: Tensor) -> Tensor:
    wide = a.new_full([2 * size for size in a.shape], torch.nan)
    wide[tuple(slice(None, None, 2) for _ in a.shape)] = a
    return wide[tuple(slice(None, None, 2) for _ in a.shape)]


@each_function
@pytest.mark.parametrize("relaid", (transposed, strided))
@pytest.mark.parametrize("n", (2, 33, 384))
def test_strides_of_rows_lu_bias_and_gradient_are_free(name: str, n: int, relaid) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(n, 7)
    grad = make_case(n, 7, seed=1).rows
    assert not relaid(case.rows).is_contiguous() and not relaid(case.lu).is_contiguous()
    leaves = [case.rows, case.lu, case.bias]
    views = [relaid(case.rows), relaid(case.lu), strided(case.bias)]
    settings = case.diagonal, case.negative_slope
    for leaf in leaves + views:
        leaf.requires_grad_()
    want, got = function(*leaves, *settings), function(*views, *settings)
    assert relative_error(got, want) < 1e-13  # other strides, another order of summation
    want_grads = torch.autograd.grad(want, leaves, grad)
    got_grads = torch.autograd.grad(got, views, relaid(grad))
    for got_one, want_one in zip(got_grads, want_grads, strict=True):
        assert relative_error(got_one, want_one) < 1e-13


@each_function
def test_expanded_rows_lu_and_gradient_count_as_the_rows_they_stand_for(name: str) -> None:
    function, dense = FUNCTIONS[name]
    row = make_case(33, 1).rows
    lu = torch.tensor([[0.01]], dtype=torch.float64)
    bias = torch.tensor([0.5], dtype=torch.float64)

    def outcome(function) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (row, lu, bias)]
        views = leaves[0].expand(5, 33), leaves[1].expand(33, 33), leaves[2].expand(33)
        result = function(*views, 1.2, 0.3)
        return result, *torch.autograd.grad(result.sum(), leaves)

    for got, want in zip(outcome(function), outcome(dense), strict=True):
        assert relative_error(got, want) < 1e-12


@pytest.mark.slow
@each_function
@pytest.mark.parametrize("dtype", (torch.float64, torch.bfloat16), ids=str)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no_bias"))
@pytest.mark.parametrize("batch", (0, 3))
def test_opcheck_passes_for_the_operator_and_its_backward_operator(
    name: str, batch: int, bias: bool, dtype: torch.dtype
) -> None:
    operator = getattr(torch.ops.invcap, name).default
    case, _ = make_case(5, batch, dtype, bias=bias).leaves()
    tolerances = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    torch.library.opcheck(operator, case.arguments, **tolerances)
    result, h = operator(*case.arguments)
    x, y = (case.rows, result) if name == "lu_leaky" else (result, case.rows)
    grad = make_case(5, batch, dtype, seed=1).rows
    tensors = [tensor.detach().requires_grad_() for tensor in (grad, x, y, h, case.lu)]
    settings = case.diagonal, case.negative_slope
    torch.library.opcheck(BACKWARD[name], (*tensors, *settings), **tolerances)


@pytest.mark.slow
@pytest.mark.parametrize("inverse", (False, True))
def test_opcheck_passes_for_the_operator_of_a_network(inverse: bool) -> None:
    _, (rows, lu, bias) = make_case(33, 7).leaves()
    network = ([lu, lu.T], [bias, None], [1.2, 0.9], [0.3, 1.0])
    torch.library.opcheck(torch.ops.invcap.lu_leaky_network.default, (rows, *network, inverse))


@each_function
@pytest.mark.parametrize("n", SIZES[3:])
def test_two_runs_agree_bit_for_bit(name: str, n: int) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(n, 256, torch.float32)
    grad = make_case(n, 256, torch.float32, seed=1).rows
    runs = [(function(*case.arguments), *gradients(function, case, grad)) for _ in range(3)]
    for run in runs[1:]:
        for again, first in zip(run, runs[0], strict=True):
            assert torch.equal(again, first)


@each_function
@pytest.mark.parametrize("n", (33, 384))
def test_a_row_does_not_depend_on_the_other_rows_of_its_batch(name: str, n: int) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(n, 256, torch.float32)
    rows, *others = case.arguments
    together = function(rows, *others)
    poisoned = rows.clone()
    poisoned[1:] = torch.nan
    # A product may sum in another order for another number of rows: 1.0e-6 was the most seen.
    assert relative_error(function(poisoned, *others)[:1], together[:1]) < 1e-5
    alone = torch.cat([function(row, *others) for row in rows[:9].split(1)])
    assert relative_error(alone, together[:9]) < 1e-5


@each_function
def test_inference_mode_gives_the_same_values(name: str) -> None:
    function, _ = FUNCTIONS[name]
    case, _ = make_case(33, 7).leaves()
    with torch.inference_mode():
        result = function(*case.arguments)
    assert torch.equal(result, function(*case.arguments))


@each_function
def test_inputs_are_left_as_they_were(name: str) -> None:
    function, _ = FUNCTIONS[name]
    case = make_case(33, 7)
    before = [tensor.clone() for tensor in case.arguments[:3]]
    function(*case.arguments)
    gradients(function, case, case.rows)
    for tensor, copy in zip(case.arguments[:3], before, strict=True):
        assert torch.equal(tensor, copy)
