"""Measures how exact the inverse is on given rows, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invcap_ext.functional import lu_leaky, lu_leaky_inverse
from invcap_ext.layers import InvertibleLinear, InvertibleNetwork

POWER_ITERATIONS = 20


@dataclass(frozen=True)
class LayerRoundTrip:
    """One layer of a `RoundTrip`.

    Attributes:
        forward_error: max |f(f^-1(y)) - y| over the layer's outputs y.
        inverse_error: max |f^-1(f(x)) - x| over the layer's inputs x.
        condition_number: |L U D| |(L U D)^-1| in spectral norms, estimated from below by power
            iteration; D is the layer's scale, or the identity.
        amplification: bound on |dx| / |dy| of the inverse, |(L U D)^-1| / min(s, 1).
    """

    forward_error: float
    inverse_error: float
    condition_number: float
    amplification: float


@dataclass(frozen=True)
class RoundTrip:
    """Round-trip errors of a network, as a whole and of each layer.

    Attributes:
        forward_error: max |f(f^-1(y)) - y| at y = f(x).
        inverse_error: max |f^-1(f(x)) - x|.
        layers: one entry per layer, first layer first.
    """

    forward_error: float
    inverse_error: float
    layers: tuple[LayerRoundTrip, ...]


@torch.no_grad()
def round_trip(module: InvertibleLinear | InvertibleNetwork, x: Tensor) -> RoundTrip:
    """Measures the errors of `module.inverse` on x (..., n).

    Costs a few passes through the network, and 20 power iterations on a single row per layer.
    """
    layers = module.layers if isinstance(module, InvertibleNetwork) else [module]
    measured = []
    rows = x
    for layer in layers:
        measured.append(_layer_round_trip(layer, rows))
        rows = layer(rows)
    forward_error, inverse_error = _errors(module, x)
    return RoundTrip(forward_error, inverse_error, tuple(measured))


def _errors(module: InvertibleLinear | InvertibleNetwork, x: Tensor) -> tuple[float, float]:
    y = module(x)
    back = module.inverse(y)
    return _max_abs(module(back) - y), _max_abs(back - x)


def _layer_round_trip(layer: InvertibleLinear, x: Tensor) -> LayerRoundTrip:
    lu = layer.lu.double()

    def linear(row: Tensor) -> Tensor:
        return lu_leaky(layer.scaled(row), lu, None, layer.diagonal, 1.0)

    def linear_inverse(row: Tensor) -> Tensor:
        return layer.unscaled(lu_leaky_inverse(row, lu, None, layer.diagonal, 1.0))

    norm, inverse_norm = _spectral_norm(linear, lu), _spectral_norm(linear_inverse, lu)
    return LayerRoundTrip(
        *_errors(layer, x),
        condition_number=norm * inverse_norm,
        amplification=inverse_norm / min(layer.negative_slope, 1.0),
    )


def _max_abs(difference: Tensor) -> float:
    return difference.abs().max().item() if difference.numel() else 0.0


def _spectral_norm(linear: Callable[[Tensor], Tensor], lu: Tensor) -> float:
    """|W| of the map x -> W x of rows (..., n), by power iteration on W^T W, in float64."""
    row = torch.ones(1, len(lu), dtype=lu.dtype, device=lu.device)
    with torch.enable_grad():
        for _ in range(POWER_ITERATIONS):
            row = (row / row.norm()).detach().requires_grad_()
            result = linear(row)
            (row,) = torch.autograd.grad(result, row, result.detach())
    return row.norm().sqrt().item()
