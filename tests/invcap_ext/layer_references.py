"""Plain float64 twins of the operators, and the weights and rows that tests run them on.

The twins merge L and U into one dense matrix and let autograd and a general dense solve do the
rest, so that they share nothing with the blocked triangular algorithm they judge.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invcap_ext import InvertibleLinear, InvertibleNetwork, lu_leaky, lu_leaky_inverse

Function = Callable[..., Tensor]


def dense_weight(lu: Tensor, diagonal: float) -> Tensor:
    scaled_identity = diagonal * torch.eye(len(lu), dtype=lu.dtype)
    return (lu.tril(-1) + scaled_identity) @ (lu.triu(1) + scaled_identity)


def dense_lu_leaky(
    x: Tensor, lu: Tensor, bias: Tensor | None, diagonal: float, negative_slope: float
) -> Tensor:
    z = x @ dense_weight(lu, diagonal).T
    z = z if bias is None else z + bias
    return torch.where(z >= 0, z, negative_slope * z)


def dense_lu_leaky_inverse(
    y: Tensor, lu: Tensor, bias: Tensor | None, diagonal: float, negative_slope: float
) -> Tensor:
    z = torch.where(y >= 0, y, y / negative_slope)
    z = z if bias is None else z - bias
    rows = z.reshape(-1, len(lu))
    return torch.linalg.solve(dense_weight(lu, diagonal), rows.T).T.reshape(z.shape)


# Both functions, each beside its twin.
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "lu_leaky": (lu_leaky, dense_lu_leaky),
    "lu_leaky_inverse": (lu_leaky_inverse, dense_lu_leaky_inverse),
}


@dataclass(frozen=True)
class Case:
    """Arguments of either function: rows (batch, n), lu with numbers on its diagonal, bias."""

    rows: Tensor
    lu: Tensor
    bias: Tensor | None
    diagonal: float
    negative_slope: float

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, float, float]:
        return self.rows, self.lu, self.bias, self.diagonal, self.negative_slope

    def double(self) -> "Case":
        return replace(
            self,
            rows=self.rows.double(),
            lu=self.lu.double(),
            bias=None if self.bias is None else self.bias.double(),
        )

    def leaves(self) -> tuple["Case", list[Tensor]]:
        """The same case on leaves of a graph, and these leaves."""
        tensors = [
            None if tensor is None else tensor.detach().clone().requires_grad_()
            for tensor in (self.rows, self.lu, self.bias)
        ]
        rows, lu, bias = tensors
        leaves = [tensor for tensor in tensors if tensor is not None]
        return replace(self, rows=rows, lu=lu, bias=bias), leaves


def make_case(
    n: int,
    batch: int,
    dtype: torch.dtype = torch.float64,
    diagonal: float = 1.2,
    negative_slope: float = 0.3,
    bias: bool = True,
    seed: int = 0,
) -> Case:
    """Weights as after training: entries of both triangles add up to as much as the diagonal."""
    generator = torch.Generator().manual_seed(1000 * n + batch + seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows, lu, b = normal(batch, n), normal(n, n) * abs(diagonal) / n**0.5, normal(n)
    return Case(
        rows.to(dtype), lu.to(dtype), b.to(dtype) if bias else None, diagonal, negative_slope
    )


def randomize_(module: InvertibleLinear | InvertibleNetwork, seed: int = 0) -> None:
    """Gives every layer weights as `make_case` does, in place."""
    layers = module.layers if isinstance(module, InvertibleNetwork) else [module]
    for index, layer in enumerate(layers):
        case = make_case(layer.features, 0, diagonal=layer.diagonal, seed=seed + index)
        with torch.no_grad():
            layer.lu.copy_(case.lu)
            if layer.bias is not None:
                layer.bias.copy_(case.bias)


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| in units of max |want|; 0 for empty tensors of the same shape."""
    assert got.shape == want.shape
    if want.numel() == 0:
        return 0.0
    scale = want.abs().max().clamp_min(torch.finfo(want.dtype).tiny)
    return ((got.to(want.dtype) - want).abs().max() / scale).item()


def jacobian(function: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    """d function(row) / d row, (n, n), by autograd."""
    return torch.autograd.functional.jacobian(function, row)
