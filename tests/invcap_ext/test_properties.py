"""Drawn sizes, settings and numbers: the inverse inverts, as well as conditioning lets it."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layer_references import make_case, relative_error
from torch import Tensor

from invcap_ext import InvertibleNetwork, lu_leaky, lu_leaky_inverse

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# |error| / (eps cond(L) cond(U) max(s, 1/s) |rows|) reached 1.9 in 6,000 draws: ten half roundings
# at n = 1.
ROUNDINGS = 5
magnitudes = st.floats(0.25, 4.0)
diagonals = st.builds(lambda sign, size: sign * size, st.sampled_from((-1, 1)), magnitudes)


def norm_and_condition(factor: Tensor) -> tuple[float, float]:
    singular_values = torch.linalg.svdvals(factor)
    return singular_values[0].item(), (singular_values[0] / singular_values[-1]).item()


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 140),
    batch=st.integers(0, 9),
    negative_slope=st.floats(0.05, 3.0),
    diagonal=diagonals,
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    spread=st.floats(0.0, 1.5),
    seed=st.integers(0, 2**32),
)
def test_each_function_inverts_the_other_within_what_the_condition_numbers_allow(
    n: int,
    batch: int,
    negative_slope: float,
    diagonal: float,
    dtype: torch.dtype,
    bias: bool,
    spread: float,
    seed: int,
) -> None:
    case = make_case(n, batch, torch.float64, diagonal, negative_slope, bias, seed)
    rows, b = case.rows.to(dtype), None if case.bias is None else case.bias.to(dtype)
    lu = (case.lu * spread).to(dtype)
    lu.fill_diagonal_(0)
    arguments = lu, b, diagonal, negative_slope
    eye = diagonal * torch.eye(n, dtype=torch.float64)
    factors = lu.double().tril(-1) + eye, lu.double().triu(1) + eye
    norms, conditions = zip(*map(norm_and_condition, factors), strict=True)
    gain = math.prod(norms)
    bend = max(negative_slope, 1.0) / min(negative_slope, 1.0)
    rounding = ROUNDINGS * torch.finfo(dtype).eps * math.prod(conditions) * bend
    size = rows.double().norm(dim=-1)
    offset = 0.0 if b is None else b.double().norm().item()
    subnormal = n**0.5 * torch.finfo(dtype).tiny  # below this a dtype has fewer digits

    y = lu_leaky(rows, *arguments)
    assume(y.isfinite().all())
    error = (lu_leaky_inverse(y, *arguments).double() - rows.double()).norm(dim=-1)
    assert (error <= rounding * (size + (offset + subnormal) / gain)).all()

    x = lu_leaky_inverse(rows, *arguments)
    assume(x.isfinite().all())
    error = (lu_leaky(x, *arguments).double() - rows.double()).norm(dim=-1)
    assert (error <= rounding * (size + offset + subnormal * gain)).all()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 70),
    depth=st.integers(1, 5),
    batch=st.integers(0, 5),
    negative_slope=st.floats(0.2, 2.0),
    diagonal=st.floats(0.7, 1.4),
    seed=st.integers(0, 2**32),
)
def test_a_network_that_recomputes_trains_as_one_that_stores(
    n: int, depth: int, batch: int, negative_slope: float, diagonal: float, seed: int
) -> None:
    outcomes = []
    for activations in ("store", "recompute"):
        torch.manual_seed(seed)
        network = InvertibleNetwork(
            n, depth, negative_slope, diagonal, activations, dtype=torch.float64
        )
        x = torch.randn(batch, n, dtype=torch.float64)
        loss = network(x).square().sum() + network.inverse(x).square().sum()
        outcomes.append(torch.autograd.grad(loss, list(network.parameters())))
    for got, want in zip(*outcomes, strict=True):
        assert relative_error(got, want) < 1e-9


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 140), negative_slope=st.floats(0.05, 3.0), diagonal=diagonals)
def test_the_log_determinants_of_a_function_and_its_inverse_cancel(
    n: int, negative_slope: float, diagonal: float
) -> None:
    case = make_case(n, 3, diagonal=diagonal, negative_slope=negative_slope)
    y = lu_leaky(*case.arguments)
    x = lu_leaky_inverse(y, *case.arguments[1:])
    # A z of either sign comes back with that sign, so that both count the same slopes.
    assert torch.equal(lu_leaky(x, *case.arguments[1:]) < 0, y < 0)
