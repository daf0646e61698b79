"""`weighted_squared_error` against plain torch in float64."""

import pytest
import torch
from torch import Tensor

from invcap_ext import weighted_squared_error

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Some units of the last place of the dtype; the gradient is rounded to it.
TOLERANCE = dict(zip(DTYPES, (1e-14, 1e-6, 8e-3, 1e-3), strict=True))


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted, noise = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    return predicted, noise, torch.rand(shape[0], generator=generator).to(wide)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ((5,), (3, 7), (2, 4, 8, 8), (0, 4), (3, 0)), ids=str)
def test_loss_and_gradient_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    predicted, noise, weight = draw(shape, dtype)
    leaf = predicted.clone().requires_grad_()
    loss = weighted_squared_error(leaf, noise, weight)
    along = torch.arange(1, len(weight) + 1, dtype=weight.dtype)
    (grad,) = torch.autograd.grad(loss, leaf, along)
    difference = predicted.double() - noise.double()
    scale = weight.double().reshape(-1, *[1] * (predicted.dim() - 1))
    want = (scale * difference.square()).flatten(1).sum(1) if predicted.dim() > 1 else (
        scale * difference.square()
    )  # fmt: skip
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=0)
    want_grad = 2 * along.double().reshape(scale.shape) * scale * difference
    assert grad.dtype == dtype
    assert grad.shape == predicted.shape
    torch.testing.assert_close(
        grad.double(), want_grad, rtol=2 * TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_strides_are_free() -> None:
    predicted, noise, weight = draw((3, 4, 5), torch.float64)
    swapped = (predicted.transpose(1, 2).contiguous().transpose(1, 2), noise.flip(2).flip(2))
    want = weighted_squared_error(predicted, noise, weight)
    torch.testing.assert_close(weighted_squared_error(*swapped, weight), want)


@pytest.mark.slow
def test_opcheck_and_gradcheck_pass() -> None:
    predicted, noise, weight = draw((3, 5), torch.float64)
    predicted.requires_grad_()
    operator = torch.ops.invcap.weighted_squared_error.default
    torch.library.opcheck(operator, (predicted, noise, weight))
    torch.autograd.gradcheck(lambda x: weighted_squared_error(x, noise, weight), predicted)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"predicted": torch.ones(())}, ValueError, r"predicted .*\(images, \.\.\.\).*\[\]"),
        ({"predicted": torch.ones(2, 3).int()}, TypeError, "predicted .*float32.*Int"),
        ({"noise": torch.ones(2, 4)}, ValueError, r"noise .*\[2, 3\].*\[2, 4\]"),
        ({"noise": torch.ones(2, 3).double()}, TypeError, "noise .*Float.*Double"),
        ({"noise": torch.ones(2, 3, device="meta")}, ValueError, "noise .*device.*cpu.*meta"),
        ({"weight": torch.ones(3)}, ValueError, r"weight .*images = 2.*\[3\]"),
        ({"weight": torch.ones(2).double()}, TypeError, "weight must be Float, got Double"),
        ({"weight": torch.ones(2, device="meta")}, ValueError, "weight .*device.*cpu.*meta"),
    ],
)
def test_a_bad_tensor_is_named(changed, error, message) -> None:
    good = {"predicted": torch.ones(2, 3), "noise": torch.ones(2, 3), "weight": torch.ones(2)}
    with pytest.raises(error, match=message):
        weighted_squared_error(**good | changed)
