"""Inputs that cannot be taken: an error names the argument, what came and what was expected."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_references import FUNCTIONS
from torch import Tensor

from invcap_ext import InvertibleLinear, InvertibleNetwork

NAN, INF = float("nan"), float("inf")
ROWS = {"lu_leaky": "x", "lu_leaky_inverse": "y"}
OPERATORS = torch.ops.invcap

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def ones(*shape: int, **options) -> Tensor:
    return torch.ones(*shape, **options)


def call(name: str, **changed) -> Tensor:
    arguments = {"rows": ones(2, 3), "lu": ones(3, 3), "bias": ones(3), **changed}
    function, _ = FUNCTIONS[name]
    return function(arguments.pop("rows"), **arguments)


# What is changed, the error, and what its message says of the argument, what came, what should.
BAD_TENSORS = {
    "rows too long": ({"rows": ones(2, 4)}, ValueError, "{rows} .*n = 3.*[2, 4]"),
    "rows a number": ({"rows": ones(())}, ValueError, r"{rows} .*\(\.\.\., n\).*\[\]"),
    "rows integer": ({"rows": ones(2, 3).long()}, TypeError, "{rows} .*dtype.*Float.*Long"),
    "rows float64": ({"rows": ones(2, 3).double()}, TypeError, "{rows} .*dtype.*Float.*Double"),
    "rows sparse": ({"rows": ones(2, 3).to_sparse()}, TypeError, "{rows} .*dense.*Sparse"),
    "rows on meta": ({"rows": ones(2, 3, device="meta")}, ValueError, "{rows} .*device.*cpu.*meta"),
    "lu not square": ({"lu": ones(3, 4)}, ValueError, r"lu .*\(n, n\).*\[3, 4\]"),
    "lu a row": ({"lu": ones(3)}, ValueError, r"lu .*\(n, n\).*\[3\]"),
    "lu a number": ({"lu": ones(())}, ValueError, r"lu .*\(n, n\).*\[\]"),
    "lu a batch": ({"lu": ones(1, 3, 3)}, ValueError, r"lu .*\(n, n\).*\[1, 3, 3\]"),
    "lu empty": ({"rows": ones(2, 0), "lu": ones(0, 0)}, ValueError, r"lu .*n > 0.*\[0, 0\]"),
    "lu sparse": ({"lu": ones(3, 3).to_sparse()}, TypeError, "lu .*dense.*Sparse"),
    "lu on meta": ({"lu": ones(3, 3, device="meta")}, ValueError, "device.*lu.*meta.*cpu"),
    "all integer": (
        {"rows": ones(2, 3).int(), "lu": ones(3, 3).int(), "bias": None},
        TypeError,
        "lu .*float32, float64, float16 or bfloat16.*Int",
    ),
    "all complex": (
        {"rows": ones(2, 3) + 0j, "lu": ones(3, 3) + 0j, "bias": None},
        TypeError,
        "lu .*float32, float64, float16 or bfloat16.*ComplexFloat",
    ),
    "bias too long": ({"bias": ones(4)}, ValueError, r"bias .*\(n,\).*n = 3.*\[4\]"),
    "bias a matrix": ({"bias": ones(1, 3)}, ValueError, r"bias .*\(n,\).*\[1, 3\]"),
    "bias a number": ({"bias": ones(())}, ValueError, r"bias .*\(n,\).*\[\]"),
    "bias bfloat16": ({"bias": ones(3).bfloat16()}, TypeError, "bias .*dtype.*Float.*BFloat16"),
    "bias on meta": ({"bias": ones(3, device="meta")}, ValueError, "bias .*device.*cpu.*meta"),
}
BAD_SETTINGS = {
    "diagonal": ("finite and not zero", (0, 0.0, -0.0, NAN, INF, -INF)),
    "negative_slope": ("finite and greater than zero", (0, -0.1, -1, NAN, INF, -INF)),
}
each_bad_setting = pytest.mark.parametrize(
    ("setting", "expected", "value"),
    [(name, expected, value) for name, (expected, bad) in BAD_SETTINGS.items() for value in bad],
)


@each_function
@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_bad_tensor_is_named_with_what_came_and_what_was_expected(name: str, case: str) -> None:
    changed, error, message = BAD_TENSORS[case]
    assert call(name).shape == (2, 3)
    with pytest.raises(error, match=message.replace("{rows}", ROWS[name]).replace("[2", r"\[2")):
        call(name, **changed)


@each_function
@each_bad_setting
def test_a_bad_setting_of_a_function_is_named_with_its_value(
    name: str, setting: str, expected: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be {expected}, got {value:g}"):
        call(name, **{setting: value})


@each_bad_setting
def test_a_bad_setting_of_a_module_is_an_error_when_it_is_made(
    setting: str, expected: str, value: float
) -> None:
    message = f"{setting} must be {expected}, got {value:g}"
    with pytest.raises(ValueError, match=message):
        InvertibleLinear(3, **{setting: value})
    for depth in (1, 2):
        with pytest.raises(ValueError, match=message):
            InvertibleNetwork(3, depth, **{setting: value})


@pytest.mark.parametrize("value", (0, -1, 2.0, True, "3", None))
@pytest.mark.parametrize("argument", ("features", "depth"))
def test_a_size_that_is_no_positive_integer_is_named_with_its_value(argument: str, value) -> None:
    message = f"{argument} must be an integer of at least 1, got {value!r}"
    with pytest.raises(ValueError, match=message):
        InvertibleNetwork(**{"features": 3, "depth": 2, argument: value})


@pytest.mark.parametrize("value", ("keep", None, 1))
def test_an_unknown_way_with_activations_is_named(value) -> None:
    with pytest.raises(
        ValueError, match=f"activations must be 'store' or 'recompute', got {value!r}"
    ):
        InvertibleNetwork(3, 2, activations=value)


@pytest.mark.parametrize("dtype", (torch.int64, torch.complex64), ids=str)
def test_a_module_of_a_dtype_that_is_not_floating_is_an_error(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"dtype must be a floating-point type, got {dtype}"):
        InvertibleLinear(3, dtype=dtype)


@pytest.mark.parametrize("activations", ("store", "recompute"))
def test_a_network_names_the_rows_it_cannot_take(activations: str) -> None:
    network = InvertibleNetwork(3, 2, activations=activations)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., n\) with n = 3.*\[2, 4\]"):
        network(ones(2, 4))
    with pytest.raises(TypeError, match=r"y must have the dtype of lu, Float, .*got Double"):
        network.inverse(ones(2, 3).double())


@each_function
@pytest.mark.parametrize("argument", ("grad", "y", "h"))
def test_a_backward_operator_names_the_tensor_that_does_not_fit(name: str, argument: str) -> None:
    operator = getattr(OPERATORS, f"{name}_backward")
    tensors = {key: ones(2, 3) for key in ("grad", "x", "y", "h")}
    arguments = {**tensors, "lu": ones(3, 3), "diagonal": 1.0, "negative_slope": 0.1}
    operator(**arguments)
    for bad, error in (
        (ones(2, 4), ValueError),
        (ones(3, 3), ValueError),
        (ones(2, 3).double(), TypeError),
        (ones(2, 3, device="meta"), ValueError),
    ):
        with pytest.raises(error, match=f"{argument} must "):
            operator(**{**arguments, argument: bad})


@each_function
@pytest.mark.parametrize("change", ("rows", "lu", "bias"))
def test_a_fake_tensor_is_refused_where_a_real_one_is(name: str, change: str) -> None:
    fake = {
        "rows": ones(2, 3, device="meta"),
        "lu": ones(3, 3, device="meta"),
        "bias": ones(3, device="meta"),
    }
    assert call(name, **fake).device.type == "meta"
    for other in (fake[change].double(), fake[change][..., :2], fake[change][None].int()):
        with pytest.raises((ValueError, TypeError), match=f"({ROWS[name]}|lu|bias) must "):
            call(name, **{**fake, change: other})


sizes = st.integers(0, 4)
shapes = st.lists(sizes, max_size=3).map(tuple)
dtypes = st.sampled_from(
    (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool)
)
tensors = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype), shapes, dtypes)
numbers = st.one_of(st.sampled_from((1.0, 0.5, -2.0)), st.floats(width=32))


@each_function
@settings(max_examples=150, deadline=None)
@given(
    rows=tensors,
    lu=tensors | sizes.map(lambda n: torch.ones(n, n)),
    bias=st.none() | tensors,
    diagonal=numbers,
    negative_slope=numbers,
)
def test_no_combination_of_arguments_does_worse_than_a_value_or_type_error(
    name: str,
    rows: Tensor,
    lu: Tensor,
    bias: Tensor | None,
    diagonal: float,
    negative_slope: float,
) -> None:
    try:
        result = call(
            name, rows=rows, lu=lu, bias=bias, diagonal=diagonal, negative_slope=negative_slope
        )
    except (ValueError, TypeError) as error:
        assert " must " in str(error) and " got " in str(error)
    else:
        assert result.shape == rows.shape
        assert rows.shape[-1:] * 2 == lu.shape
        assert result.dtype == rows.dtype == lu.dtype
