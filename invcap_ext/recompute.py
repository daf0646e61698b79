"""A stack of invertible layers as one operator: on a GPU one launch, where rows fit on the chip.

It keeps only its output for backward. Going back through the stack, each layer's input is recovered
from its output by the layer's own inverse (or, for the inverse direction, by its forward), which
also yields the h that the weight gradients need. Memory: one row of n numbers per row of the batch,
whatever the depth; none where no gradient is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invcap_ext.layers import InvertibleLinear

# On a CPU, rows of so many numbers go back together: what they need then stays small.
NUMBERS_AT_ONCE = 1 << 19
Settings = tuple[tuple[float, float], ...]
OPERATORS = torch.ops.invcap


def recomputed(rows: Tensor, layers: list[InvertibleLinear], inverse: bool) -> Tensor:
    """Runs rows (..., n) through layers, or back through their inverses."""
    settings = tuple((layer.diagonal, layer.negative_slope) for layer in layers)
    parameters = [parameter for layer in layers for parameter in (layer.lu, layer.bias)]
    if not torch.is_grad_enabled():
        return _run(rows, settings, inverse, *parameters)
    return _Recomputed.apply(rows, settings, inverse, *parameters)


def _run(rows: Tensor, settings: Settings, inverse: bool, *parameters: Tensor | None) -> Tensor:
    lu, bias = parameters[::2], parameters[1::2]
    return OPERATORS.lu_leaky_network(rows, lu, bias, *zip(*settings, strict=True), inverse)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, settings: Settings, inverse: bool, *parameters: Tensor):
        ctx.settings, ctx.inverse = settings, inverse
        rows = _run(rows, settings, inverse, *parameters)
        ctx.save_for_backward(rows, *parameters)
        return rows

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, *parameters = ctx.saved_tensors
        undo = OPERATORS.lu_leaky if ctx.inverse else OPERATORS.lu_leaky_inverse
        back = OPERATORS.lu_leaky_inverse_backward if ctx.inverse else OPERATORS.lu_leaky_backward
        grads: list[Tensor | None] = [None] * len(parameters)
        input_grad = rows.new_empty(rows.shape) if ctx.needs_input_grad[0] else None
        layers = range(len(ctx.settings))
        n = rows.shape[-1]
        count = rows.numel() // n
        some = max(1, NUMBERS_AT_ONCE // n if rows.device.type == "cpu" else count)
        for first in range(0, max(1, count), some):
            part = slice(first, first + some)
            after, part_grad = rows.reshape(-1, n)[part], grad.reshape(-1, n)[part]
            for layer in layers if ctx.inverse else reversed(layers):
                lu, bias = parameters[2 * layer : 2 * layer + 2]
                before, h = undo(after, lu, bias, *ctx.settings[layer])
                x, y = (after, before) if ctx.inverse else (before, after)
                part_grad, glu, gb = back(part_grad, x, y, h, lu, *ctx.settings[layer])
                grads[2 * layer] = _added(grads[2 * layer], glu)
                if bias is not None:
                    grads[2 * layer + 1] = _added(grads[2 * layer + 1], gb)
                after = before
            if input_grad is not None:
                input_grad.view(-1, n)[part] = part_grad
        return input_grad, None, None, *grads


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
