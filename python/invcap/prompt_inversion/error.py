"""The loss of prompt inversion: a weighted squared error of each picture."""

from torch import Tensor


def weighted_squared_error(predicted: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
    """Computes weight |predicted - noise|^2 of each picture, (N, ...) and (N,) to (N,).

    The result has weight's dtype.
    """
    return weight * (predicted.to(weight.dtype) - noise).square().flatten(1).sum(1)
