"""A stack of invertible layers that keeps only its output for backward.

Going back through the stack, each layer's input is recovered from its output by the layer's own
inverse (or, for the inverse direction, by its forward), which also yields the h that the weight
gradients need. Memory: one row of n numbers per row of the batch, whatever the depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invcap_ext.layers import InvertibleLinear

Settings = tuple[tuple[float, float], ...]
OPERATORS = torch.ops.invcap


def recomputed(rows: Tensor, layers: list[InvertibleLinear], inverse: bool) -> Tensor:
    """Runs rows (..., n) through layers, or back through their inverses."""
    settings = tuple((layer.diagonal, layer.negative_slope) for layer in layers)
    parameters = [parameter for layer in layers for parameter in (layer.lu, layer.bias)]
    return _Recomputed.apply(rows, settings, inverse, *parameters)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, settings: Settings, inverse: bool, *parameters: Tensor):
        ctx.settings, ctx.inverse = settings, inverse
        operator = OPERATORS.lu_leaky_inverse if inverse else OPERATORS.lu_leaky
        for layer in _order(len(settings), inverse):
            lu, bias = parameters[2 * layer : 2 * layer + 2]
            rows = operator(rows, lu, bias, *settings[layer])[0]
        ctx.save_for_backward(rows, *parameters)
        return rows

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, *parameters = ctx.saved_tensors
        undo = OPERATORS.lu_leaky if ctx.inverse else OPERATORS.lu_leaky_inverse
        back = OPERATORS.lu_leaky_inverse_backward if ctx.inverse else OPERATORS.lu_leaky_backward
        grads: list[Tensor | None] = [None] * len(parameters)
        for layer in reversed(_order(len(ctx.settings), ctx.inverse)):
            lu, bias = parameters[2 * layer : 2 * layer + 2]
            before, h = undo(rows, lu, bias, *ctx.settings[layer])
            x, y = (rows, before) if ctx.inverse else (before, rows)
            grad, glu, gb = back(grad, x, y, h, lu, *ctx.settings[layer])
            grads[2 * layer : 2 * layer + 2] = glu, None if bias is None else gb
            rows = before
        return grad, None, None, *grads


def _order(depth: int, inverse: bool) -> list[int]:
    return list(reversed(range(depth))) if inverse else list(range(depth))
