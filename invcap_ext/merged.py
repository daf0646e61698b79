"""Frozen layers as dense ones: W = L U forward and W^-1 backward, each as one matrix.

To keep rounding errors small, W^-1 is stored as its difference R from the inverse of the diagonals,
with s the slope of the leaky ReLU and c the diagonal of L and U:

    z = y where y >= 0, else y / s        x = z / c^2 + z R^T - W^-1 b        R = W^-1 - I / c^2

Whether that is accurate enough is measured on random rows, since condition numbers do not predict
it: for random triangles with condition number 1,600 the error is 1.7 times that of
`torch.linalg.solve_triangular`, but for smooth ones with 25 it is 2.1 times.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invcap_ext.functional import factors, lu_leaky_inverse

# The largest error relative to that of `solve_triangular`, on the probe's rows.
MOST_ERROR = 1.8
PROBE_ROWS = 64


@dataclass(frozen=True)
class DenseInverse:
    """Inverse of a layer: rest R (n, n), offset -W^-1 b (n,), scale 1 / c^2."""

    rest: Tensor
    offset: Tensor
    scale: float

    def __call__(self, y: Tensor, negative_slope: float = 1.0) -> Tensor:
        """Maps y (..., n) to x; 2 rows n^2 flops."""
        z = y if negative_slope == 1 else F.leaky_relu(y, 1 / negative_slope)
        rows = z.reshape(-1, z.shape[-1])
        return (
            torch.add(self.offset, rows, alpha=self.scale).addmm_(rows, self.rest.T).view(y.shape)
        )


@torch.no_grad()
def dense_inverse(lu: Tensor, bias: Tensor | None, diagonal: float) -> DenseInverse | None:
    """Inverts W in float64, which costs 2 n^3 flops.

    Args:
        lu, bias, diagonal: see `lu_leaky`.

    Returns:
        The inverse; None if its error is more than `MOST_ERROR` times that of substitution.
    """
    lower, upper = factors(lu.double(), diagonal)
    identity = torch.eye(len(lu), dtype=torch.float64, device=lu.device)
    inverse = _solve(lower, upper, identity)
    scale = diagonal**-2
    rest = (inverse - scale * identity).to(lu.dtype)
    found = DenseInverse(rest, torch.zeros_like(rest[0]), scale)
    if not _is_exact(found, lu, diagonal):
        return None
    return found if bias is None else replace(found, offset=-(inverse @ bias.double()).to(lu.dtype))


def _solve(lower: Tensor, upper: Tensor, columns: Tensor) -> Tensor:
    solve = torch.linalg.solve_triangular
    return solve(upper, solve(lower, columns, upper=False), upper=True)


def _is_exact(inverse: DenseInverse, lu: Tensor, diagonal: float) -> bool:
    """Compares errors with those of `solve_triangular`, on z = W x of random x.

    In float32 these are the errors of W^-1 z, and random z are tried too. In other dtypes they are
    those of the round trip from x: for float64 there is no more accurate reference, and in half
    precision the rounding of z dominates.
    """
    lower, upper = factors(lu.double(), diagonal)
    wide = torch.float64 if lu.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_ROWS, len(lu), generator=generator, dtype=torch.float64).to(lu.device)
    probes = [x @ upper.T @ lower.T, x] if lu.dtype == torch.float32 else [x @ upper.T @ lower.T]
    for probe in probes:
        z = probe.to(lu.dtype)
        right = _solve(lower, upper, z.double().T).T if lu.dtype == torch.float32 else x
        product = inverse(z).double() - right
        substituted = _solve(lower.to(wide), upper.to(wide), z.to(wide).T).T.double() - right
        if not product.norm() <= MOST_ERROR * substituted.norm():
            return False
    return True


class MergedLayer(nn.Module):
    """A dense layer with the values and the inverse of y = leaky_relu(L U D x + b), (..., n) each.

    If a dense inverse is not accurate enough, `inverse` uses substitution.
    """

    weight: Tensor
    bias: Tensor | None
    lu: Tensor | None
    rest: Tensor
    offset: Tensor
    unscale: Tensor | None

    def __init__(
        self,
        lu: Tensor,
        bias: Tensor | None,
        diagonal: float,
        negative_slope: float,
        log_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.diagonal = diagonal
        self.negative_slope = negative_slope
        lu, bias = lu.detach().clone(), None if bias is None else bias.detach().clone()
        lower, upper = factors(lu.double(), diagonal)
        weight = lower @ upper
        if log_scale is not None:
            weight *= log_scale.detach().double().exp()
        self.register_buffer("weight", weight.to(lu.dtype))
        self.register_buffer("unscale", None if log_scale is None else (-log_scale.detach()).exp())
        self.register_buffer("bias", bias)
        found = dense_inverse(lu, bias, diagonal)
        self.register_buffer("lu", lu if found is None else None)
        self.register_buffer("rest", None if found is None else found.rest)
        self.register_buffer("offset", None if found is None else found.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x to y."""
        y = F.linear(x, self.weight, self.bias)
        return y if self.negative_slope == 1 else F.leaky_relu(y, self.negative_slope, inplace=True)

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to x."""
        if self.lu is not None:
            x = lu_leaky_inverse(y, self.lu, self.bias, self.diagonal, self.negative_slope)
        else:
            x = DenseInverse(self.rest, self.offset, self.diagonal**-2)(y, self.negative_slope)
        return x if self.unscale is None else x * self.unscale


class MergedNetwork(nn.Module):
    """What `InvertibleNetwork.merged` returns: dense layers for rows (..., n), both directions."""

    def __init__(self, layers: Sequence[MergedLayer]) -> None:
        super().__init__()
        self.layers: Sequence[MergedLayer] = nn.ModuleList(layers)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Maps x to y."""
        for layer in self.layers:
            x = layer(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to x."""
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y
