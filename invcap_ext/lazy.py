"""An invertible network conditioned on a context, as a lazy transform of zuko (extra `flows`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from invcap_ext.flow import InvertibleSequential, flow_network
from invcap_ext.layers import check_positive
from invcap_ext.transforms import InvertibleTransform

try:
    from zuko.lazy import LazyTransform
    from zuko.nn import MLP
except ImportError as error:
    raise ImportError("invcap_ext.lazy needs zuko: pip install 'invcap[flows]'") from error

# Scales from the context lie between 1 / MOST_SCALE and MOST_SCALE.
MOST_SCALE = 100.0


@dataclass(frozen=True)
class ConditionedNetwork:
    """A network whose layer k gets exp(log_scales[k]) x + shifts[k] as its input, in place of x.

    Shapes: log_scales, shifts: a tensor (..., n) for each layer; they broadcast with rows.
    """

    network: InvertibleSequential
    log_scales: Sequence[Tensor]
    shifts: Sequence[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        for layer, log_scale, shift in self._layers():
            x = layer(x * log_scale.exp() + shift)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        for layer, log_scale, shift in reversed(self._layers()):
            y = (layer.inverse(y) - shift) * (-log_scale).exp()
        return y

    def forward_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for layer, log_scale, shift in self._layers():
            x, part = layer.forward_and_logdet(x * log_scale.exp() + shift)
            parts.append(part + log_scale.sum(-1))
        return x, torch.stack(parts).sum(0)

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for layer, log_scale, shift in reversed(self._layers()):
            y, part = layer.inverse_and_logdet(y)
            y = (y - shift) * (-log_scale).exp()
            parts.append(part - log_scale.sum(-1))
        return y, torch.stack(parts).sum(0)

    def _layers(self) -> list[tuple[Any, Tensor, Tensor]]:
        return list(zip(self.network, self.log_scales, self.shifts, strict=True))


class ConditionalNetwork(LazyTransform):
    """y = f(x | c): a `flow_network` with biases and scales from a context c.

    A multi-layer perceptron maps c to a positive diagonal D_k and a shift t_k for each layer k,
    whose input is D_k x + t_k. All rows share the triangles, so that the same kernels are used. The
    perceptron's last layer is initialized with zeros: D_k = 1, t_k = 0.

    Args:
        features: n, the size of a row in both directions.
        context: number of features of c.
        depth: number of invertible layers.
        hidden_features: sizes of the perceptron's hidden layers.
        negative_slope, corner: those of `flow_network`.

    Shapes: x, y (..., n); c (..., context), broadcast with rows.
    """

    def __init__(
        self,
        features: int,
        context: int,
        depth: int,
        hidden_features: Sequence[int] = (64, 64),
        negative_slope: float = 0.5,
        corner: float = 0.3,
    ) -> None:
        super().__init__()
        check_positive("context", context)
        self.features = features
        self.network = flow_network(features, depth, negative_slope, corner)
        self.conditioner = MLP(context, depth * 2 * features, hidden_features)
        with torch.no_grad():
            for parameter in self.conditioner[-1].parameters():
                parameter.zero_()

    def forward(self, c: Tensor | None = None) -> InvertibleTransform:
        """Returns the transform x -> y for a context c (..., context)."""
        if c is None:
            raise ValueError("c must be a context of shape (..., context), got None")
        raw = self.conditioner(c).unflatten(-1, (-1, 2, self.features))
        log_scales, shifts = raw.movedim(-2, 0)
        log_scales = log_scales / (1 + log_scales.abs() / log(MOST_SCALE))
        return InvertibleTransform(
            ConditionedNetwork(self.network, log_scales.unbind(-2), shifts.unbind(-2))
        )
