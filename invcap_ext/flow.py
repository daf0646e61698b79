"""A network for density estimation: triangular layers and smooth activations."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invcap_ext.layers import InvertibleLinear, check_positive


class RoundedLeakyReLU(nn.Module):
    """A leaky ReLU with a rounded corner and a learned negative slope for each feature.

    y = p + s m, with p = (z + q) / 2, m = (z - q) / 2 and q = sqrt(z^2 + r^2); p + m = z.

    dy/dz = (p - s m) / q rises smoothly from s to 1. Log-determinants therefore have gradients in
    z, unlike those of a leaky ReLU. The inverse has the same form, with 1/s and r sqrt(s).

    Args:
        features: n, the size of a row.
        negative_slope: the initial s > 0.
        corner: r > 0, the size of the rounded corner, in units of z; not trained.

    Shapes: z, y (..., n); log_slope (n,).
    """

    def __init__(self, features: int, negative_slope: float = 0.5, corner: float = 0.3) -> None:
        super().__init__()
        check_positive("features", features)
        for name, value in (("negative_slope", negative_slope), ("corner", corner)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        self.corner = corner
        self.log_slope = nn.Parameter(torch.full((features,), math.log(negative_slope)))

    def forward(self, z: Tensor) -> Tensor:
        """Maps z to y, both (..., n)."""
        return _bend(z, *self._slope_and_square())[0]

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to the z that `forward` maps to it, both (..., n)."""
        return _bend(y, *self._inverse_slope_and_square())[0]

    def forward_and_logdet(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y (..., n) and log|det dy/dz| (...,), in one pass."""
        y, derivative = _bend(z, *self._slope_and_square())
        return y, derivative().log().sum(-1)

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns z (..., n) and log|det dz/dy| (...,), in one pass."""
        z, derivative = _bend(y, *self._inverse_slope_and_square())
        return z, derivative().log().sum(-1)

    def _slope_and_square(self) -> tuple[Tensor, Tensor]:
        return self.log_slope.exp(), torch.full_like(self.log_slope, self.corner**2)

    def _inverse_slope_and_square(self) -> tuple[Tensor, Tensor]:
        slope = self.log_slope.exp()
        return slope.reciprocal(), self.corner**2 * slope

    def extra_repr(self) -> str:
        return f"features={len(self.log_slope)}, corner={self.corner:g}"


def _bend(z: Tensor, slope: Tensor, square: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """Returns y and a function that computes dy/dz, for r^2 = square.

    (q - |z|) / 2 = r^2 / 2 / (q + |z|) avoids cancellation. The operators are chosen for their
    speed on a CPU.
    """
    length = torch.addcmul(square, z, z).sqrt()
    # |z| with derivative -1 at zero, to match `leaky`, whose derivative there is s.
    total = length + F.leaky_relu(z, -1.0)

    def leaky(below: Tensor) -> Tensor:
        return F.prelu(z.reshape(-1, len(below)), below).reshape(z.shape)

    y = torch.addcdiv(leaky(slope), (1 - slope) * square, total, value=0.5)
    return y, lambda: torch.addcdiv(leaky(-slope), (1 + slope) * square, total, value=0.5) / length


class InvertibleSequential(nn.Sequential):
    """A sequence of invertible modules, with its inverse and log-determinants."""

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to the x that `forward` maps to it, both (..., n)."""
        for module in reversed(self._steps()):
            y = module.inverse(y)
        return y

    def forward_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y (..., n) and log|det dy/dx| (...,), in one pass."""
        parts = []
        for module in self._steps():
            x, part = module.forward_and_logdet(x)
            parts.append(part)
        return x, torch.stack(parts).sum(0)

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x (..., n) and log|det dx/dy| (...,), in one pass."""
        parts = []
        for module in reversed(self._steps()):
            y, part = module.inverse_and_logdet(y)
            parts.append(part)
        return y, torch.stack(parts).sum(0)

    def _steps(self) -> list[Any]:
        return list(self.children())


def flow_network(
    features: int, depth: int, negative_slope: float = 0.5, corner: float = 0.3
) -> InvertibleSequential:
    """Returns layers y = rounded_leaky_relu(L U D x + b), the last one without activation.

    The kernels compute L U; scales D and slopes are learned. An `InvertibleNetwork` is faster,
    since it runs in one launch, but its density has jumps and its slopes are fixed.

    The depth - 1 activations start with slopes s, 1/s, s, ..., so that convex and concave ones
    alternate: with convex ones alone, a one-dimensional network could only be convex.
    """
    check_positive("depth", depth)
    slopes = [negative_slope ** (-1) ** index for index in range(depth - 1)]
    return InvertibleSequential(
        *(
            InvertibleSequential(_linear(features), RoundedLeakyReLU(features, slope, corner))
            for slope in slopes
        ),
        _linear(features),
    )


def _linear(features: int) -> InvertibleLinear:
    return InvertibleLinear(features, negative_slope=1.0, scale=True)


@torch.no_grad()
def spread_kinks(network: InvertibleSequential, x: Tensor) -> None:
    """Sets the biases of a `flow_network` so that its kinks lie among the rows x (rows, n).

    The corner of each feature of each layer is put at one row, drawn at random.
    """
    for layer in list(network.children())[:-1]:
        bias = layer.get_parameter("0.bias")
        bias.zero_()
        z = layer.get_submodule("0")(x)
        drawn = torch.randint(len(z), (1, len(bias)), device=z.device)
        bias.copy_(-z.gather(0, drawn)[0])
        x = layer(x)
