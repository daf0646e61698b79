"""The loss of prompt inversion: a weighted squared error for each image, in one pass."""

from typing import Any

import torch
from torch import Tensor


def weighted_squared_error(predicted: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Computes weight |predicted - noise|^2 for each image; once differentiable in predicted.

    One pass over the data computes the loss and its gradient; only the gradient is kept for
    backward.

    Args:
        predicted: (images, ...), float32, float64, bfloat16 or float16.
        noise: shape and dtype of predicted; no gradient is computed for it.
        weight: (images,), float32, or float64 if predicted is; no gradient is computed for it.

    Returns:
        loss: (images,), of weight's dtype.

    Raises:
        ValueError: a shape or device is wrong; the message names the argument.
        TypeError: a dtype is not supported, or dtypes differ.
    """
    return torch.ops.invcap.weighted_squared_error(predicted, noise, weight)[0]


@torch.library.register_fake("invcap::weighted_squared_error")
def _fake(predicted: Tensor, noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    for name, tensor in (("noise", noise), ("weight", weight)):
        message = (
            f"{name} must be on the device of predicted, {predicted.device}, got {tensor.device}"
        )
        torch._check_value(tensor.device == predicted.device, message.__str__)
    torch._check_value(
        noise.shape == predicted.shape,
        lambda: f"noise must have shape {predicted.shape}, got {noise.shape}",
    )
    torch._check_value(
        weight.shape == predicted.shape[:1],
        lambda: f"weight must have shape {predicted.shape[:1]}, got {weight.shape}",
    )
    return weight.new_empty(weight.shape), predicted.new_empty(predicted.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    _, gradient = output
    ctx.mark_non_differentiable(gradient)
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    (gradient,) = ctx.saved_tensors
    scale = grad.reshape(-1, *[1] * (gradient.dim() - 1))
    return (scale * gradient).to(gradient.dtype), None, None


torch.library.register_autograd("invcap::weighted_squared_error", _backward, setup_context=_setup)
