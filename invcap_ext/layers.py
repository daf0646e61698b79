"""Invertible modules: a single layer, and a network of layers."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from invcap_ext._C import check_settings
from invcap_ext.functional import factors, lu_leaky, lu_leaky_inverse
from invcap_ext.kept import KeptInverse, uses_kept_inverse
from invcap_ext.merged import MergedLayer, MergedNetwork


class InvertibleLinear(nn.Module):
    """y = leaky_relu(L U D x + b), with L and U triangular and a constant on both diagonals.

    D is the identity, or with `scale` a learned positive diagonal. With z = L U D x + b,
    log|det dy/dx| = 2 n log|c| + log det D + (number of z < 0) log s, per row.

    Args:
        features: n, the size of a row in both directions.
        bias: whether to learn an additive bias b.
        diagonal: the constant c, finite and not zero. It is not trained; the n(n - 1) numbers of
            `lu` off its diagonal are.
        negative_slope: s > 0 of the leaky ReLU; 1 for no activation.
        scale: whether to learn D = exp(log_scale), which starts as the identity. It is applied to
            x before the kernels.
        bandwidth: h >= 0, in units of z, of a smoothed gradient of the log-determinant. The number
            of z < 0 is a step function, whose gradient is zero almost everywhere, but its
            expectation over rows is smooth. Its gradient is estimated by that of the sum of
            sigmoid(-z / h); values stay exact. Maximum likelihood needs it; 0 turns it off.

    Shapes: x, y (..., n); lu (n, n), the strict triangles of L and U; bias and log_scale (n,).

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.1.
    """

    def __init__(
        self,
        features: int,
        bias: bool = True,
        diagonal: float = 1.0,
        negative_slope: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale: bool = False,
        bandwidth: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("features", features)
        check_floating(dtype)
        check_settings(diagonal, negative_slope)
        if not 0 <= bandwidth < math.inf:
            raise ValueError(f"bandwidth must be finite and not negative, got {bandwidth!r}")
        self.features = features
        self.diagonal = diagonal
        self.negative_slope = negative_slope
        self.bandwidth = bandwidth
        self.lu = nn.Parameter(torch.empty(features, features, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(features, device=device, dtype=dtype)) if bias else None
        )
        self.log_scale = (
            nn.Parameter(torch.empty(features, device=device, dtype=dtype)) if scale else None
        )
        self._kept = KeptInverse()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws `lu` uniformly from +-|c| / n, so that |L^-1|, |U^-1| < e / |c|; b = 0, D = 1."""
        bound = abs(self.diagonal) / self.features
        with torch.no_grad():
            self.lu.uniform_(-bound, bound).fill_diagonal_(0)
            if self.bias is not None:
                self.bias.zero_()
            if self.log_scale is not None:
                self.log_scale.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Maps x to y, both (..., n)."""
        x = self.scaled(x)
        return lu_leaky(x, self.lu, self.bias, self.diagonal, self.negative_slope)

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to the x that `forward` maps to it, both (..., n).

        With frozen weights (`requires_grad_(False)`), many rows are multiplied by one dense matrix,
        which is cached until the weights change: 2 rows n^2 flops, and 2 n^3 in float64 after each
        change.
        """
        found = None
        if uses_kept_inverse(y, self.lu):
            found = self._kept.find(self.lu, self.bias, self.diagonal)
        if found is None:
            x = lu_leaky_inverse(y, self.lu, self.bias, self.diagonal, self.negative_slope)
        else:
            x = found(y, self.negative_slope)
        return self.unscaled(x)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "InvertibleLinear":
        self._kept.forget()
        return super()._apply(fn, recurse)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx| of each row, (...,), for y = forward(x).

        Without `bandwidth`, its gradient in `lu` and `bias` is zero.
        """
        wide = torch.promote_types(y.dtype, torch.float32)
        negative = (y < 0).sum(-1).to(wide)
        if self.bandwidth > 0 and torch.is_grad_enabled():
            z = torch.where(y < 0, y / self.negative_slope, y)
            smooth = torch.sigmoid(-z.to(wide) / self.bandwidth).sum(-1)
            negative = negative + (smooth - smooth.detach())
        volume = 2 * self.features * math.log(abs(self.diagonal))
        log_det = volume + negative * math.log(self.negative_slope)
        return log_det if self.log_scale is None else log_det + self.log_scale.to(wide).sum()

    def scaled(self, x: Tensor) -> Tensor:
        """Returns D x, the kernels' input."""
        return x if self.log_scale is None else x * self.log_scale.exp()

    def unscaled(self, x: Tensor) -> Tensor:
        """Returns D^-1 x, the inverse of `scaled`."""
        return x if self.log_scale is None else x * (-self.log_scale).exp()

    def forward_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y (..., n) and log|det dy/dx| (...,), in one pass."""
        y = self(x)
        return y, self.log_abs_det_jacobian(x, y)

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x (..., n) with y = forward(x), and log|det dx/dy| (...,), in one pass."""
        x = self.inverse(y)
        return x, -self.log_abs_det_jacobian(x, y)

    @property
    def lower(self) -> Tensor:
        """L, dense (n, n)."""
        return factors(self.lu, self.diagonal)[0]

    @property
    def upper(self) -> Tensor:
        """U, dense (n, n)."""
        return factors(self.lu, self.diagonal)[1]

    @property
    def weight(self) -> Tensor:
        """L U, dense (n, n), computed by a dense matrix product."""
        lower, upper = factors(self.lu, self.diagonal)
        return lower @ upper

    def extra_repr(self) -> str:
        return (
            f"features={self.features}, bias={self.bias is not None}, "
            f"diagonal={self.diagonal:g}, negative_slope={self.negative_slope:g}"
        )


class InvertibleNetwork(nn.Module):
    """A sequence of `InvertibleLinear` layers; the last one has no activation.

    Without gradients, and with activations="recompute", all layers run as one operator, and hooks
    on single layers are not called.

    Args:
        features: n, the size of a row in both directions.
        depth: number of layers.
        negative_slope: s of the activations between layers.
        diagonal: the constant c on all diagonals.
        activations: "store" keeps 2 n numbers per layer and row for backward. "recompute" keeps n
            numbers per row for the whole network; backward recovers the inputs of the layers by
            running them in the opposite direction, which costs one more pass and adds its
            round-trip error (see `round_trip`).
        scale: whether to learn one positive number for each feature, in the first layer. Scales of
            further layers would add nothing: a positive diagonal D commutes with a leaky ReLU, and
            moves past a triangle by scaling its entries, D L = (D L D^-1) D.
        bandwidth: see `InvertibleLinear`.
    """

    def __init__(
        self,
        features: int,
        depth: int,
        negative_slope: float = 0.1,
        diagonal: float = 1.0,
        activations: Literal["store", "recompute"] = "store",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        scale: bool = False,
        bandwidth: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("depth", depth)
        check_settings(diagonal, negative_slope)
        if activations not in ("store", "recompute"):
            raise ValueError(f"activations must be 'store' or 'recompute', got {activations!r}")
        self.features = features
        self.activations = activations
        slopes = [negative_slope] * (depth - 1) + [1.0]
        self.layers: Sequence[InvertibleLinear] = nn.ModuleList(  # type: ignore[assignment]
            InvertibleLinear(
                features,
                diagonal=diagonal,
                negative_slope=slope,
                device=device,
                dtype=dtype,
                scale=scale and index == 0,
                bandwidth=bandwidth,
            )
            for index, slope in enumerate(slopes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps x to y, both (..., n)."""
        if self._runs_at_once():
            return self._run_at_once(self.layers[0].scaled(x), inverse=False)
        for layer in self.layers:
            x = layer(x)
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Maps y to the x that `forward` maps to it, both (..., n).

        Each layer costs as much as `InvertibleLinear.inverse`.
        """
        if self._runs_at_once() and not uses_kept_inverse(y, self.layers[0].lu):
            return self.layers[0].unscaled(self._run_at_once(y, inverse=True))
        for layer in reversed(self.layers):
            y = layer.inverse(y)
        return y

    def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
        """Returns log|det df/dx| of each row of x, (...,), at the cost of a forward pass."""
        return self.forward_and_logdet(x)[1]

    def forward_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y (..., n) and log|det dy/dx| (...,), in one pass, layer by layer."""
        parts = []
        for layer in self.layers:
            x, part = layer.forward_and_logdet(x)
            parts.append(part)
        return x, torch.stack(parts).sum(0)

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x (..., n) and log|det dx/dy| (...,), in one pass, layer by layer."""
        parts = []
        for layer in reversed(self.layers):
            y, part = layer.inverse_and_logdet(y)
            parts.append(part)
        return y, torch.stack(parts).sum(0)

    def merged(self) -> MergedNetwork:
        """Returns a frozen copy of the network as dense layers, for inference in both directions.

        Costs 4 n^3 flops a layer in float64 once; each pass then costs as much as one of
        `nn.Linear` layers. The copy has no parameters, and later changes of this network's do not
        affect it.
        """
        return MergedNetwork(
            [
                MergedLayer(
                    layer.lu, layer.bias, layer.diagonal, layer.negative_slope, layer.log_scale
                )
                for layer in self.layers
            ]
        )

    def _runs_at_once(self) -> bool:
        return self.activations == "recompute" or not torch.is_grad_enabled()

    def _run_at_once(self, rows: Tensor, inverse: bool) -> Tensor:
        return torch.ops.invcap.lu_leaky_network(
            rows,
            [layer.lu for layer in self.layers],
            [layer.bias for layer in self.layers],
            [layer.diagonal for layer in self.layers],
            [layer.negative_slope for layer in self.layers],
            inverse,
        )

    def extra_repr(self) -> str:
        return f"activations={self.activations!r}"


def check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_floating(dtype: torch.dtype | None) -> None:
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point type, got {dtype}")
