"""The layer y = leaky_relu(L U x + b) and its inverse as differentiable operators.

The operators, their first derivatives and autocast are in `csrc/`; fake kernels and second
derivatives are here. Vectors are rows (the last dimension), so h = U x is written h = x U^T:

    h = x U^T        z = h L^T + b        y = z where z >= 0, else s z
"""

import sys
from typing import Any

import torch
from torch import Tensor

from invcap_ext._C import dense_rows  # defines the operators

NEVER = sys.maxsize


def lu_leaky(
    x: Tensor,
    lu: Tensor,
    bias: Tensor | None = None,
    diagonal: float = 1.0,
    negative_slope: float = 0.1,
) -> Tensor:
    """Computes y = leaky_relu(L U x + b) for each row of x.

    Costs two triangular products, together 2 rows n^2 flops: as many as one dense product. Under
    `torch.autocast` float32, bfloat16 and float16 arguments are cast to its dtype; gradients have
    the dtypes of the arguments.

    Args:
        x: (..., n), float32, float64, bfloat16 or float16 (the last two are accumulated in
            float32), with any strides.
        lu: (n, n), L strictly below the diagonal and U strictly above; the diagonal is ignored
            and its gradient is exactly zero.
        bias: (n,) or None.
        diagonal: the constant c on the diagonals of L and U, finite and not zero.
        negative_slope: s > 0 of the leaky ReLU; 1 for no activation.

    Returns:
        y: (..., n).

    Raises:
        ValueError: a shape, a device or a setting is wrong; the message names the argument.
        TypeError: a dtype is not supported, or dtypes differ.

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.1.
    """
    if not torch.is_grad_enabled():
        return _without_graph(x, lu, bias, diagonal, negative_slope, inverse=False)
    return torch.ops.invcap.lu_leaky(x, lu, bias, diagonal, negative_slope)[0]


def lu_leaky_inverse(
    y: Tensor,
    lu: Tensor,
    bias: Tensor | None = None,
    diagonal: float = 1.0,
    negative_slope: float = 0.1,
) -> Tensor:
    """Computes the x for which `lu_leaky(x, lu, bias, diagonal, negative_slope)` is y.

    Costs two triangular solves, together 2 rows n^2 flops. Errors of y are amplified by up to
    |U^-1| |L^-1| / s: see `invcap_ext.round_trip`. bfloat16 and float16 are solved in float32.
    Autocast, arguments and errors are those of `lu_leaky`, with y: (..., n) in place of x.

    Returns:
        x: (..., n).
    """
    if not torch.is_grad_enabled():
        return _without_graph(y, lu, bias, diagonal, negative_slope, inverse=True)
    return torch.ops.invcap.lu_leaky_inverse(y, lu, bias, diagonal, negative_slope)[0]


def _without_graph(
    rows: Tensor,
    lu: Tensor,
    bias: Tensor | None,
    diagonal: float,
    negative_slope: float,
    inverse: bool,
) -> Tensor:
    """Computes either direction without h, which only a backward pass needs."""
    return torch.ops.invcap.lu_leaky_network(
        rows, [lu], [bias], [diagonal], [negative_slope], inverse
    )


def _check_like_lu(name: str, tensor: Tensor, lu: Tensor, fits: bool, shape: str) -> None:
    torch._check_value(
        fits, lambda: f"{name} must have shape {shape}, got {tensor.shape} for lu of {lu.shape}"
    )
    torch._check_type(
        tensor.dtype == lu.dtype,
        lambda: f"{name} must have the dtype of lu, {lu.dtype}, got {tensor.dtype}",
    )
    torch._check_value(
        tensor.device == lu.device,
        lambda: f"{name} must be on the device of lu, {lu.device}, got {tensor.device}",
    )


def _check_rows(name: str, rows: Tensor, lu: Tensor) -> None:
    torch._check_type(
        lu.dtype.is_floating_point,
        lambda: f"lu must be float32, float64, float16 or bfloat16, got {lu.dtype}",
    )
    torch._check_value(
        lu.dim() == 2 and lu.shape[0] == lu.shape[1],
        lambda: f"lu must have shape (n, n), got {lu.shape}",
    )
    fits = rows.dim() > 0 and rows.shape[-1] == lu.shape[0]
    _check_like_lu(name, rows, lu, fits, "(..., n)")


def _check_layer(name: str, rows: Tensor, lu: Tensor, bias: Tensor | None) -> None:
    _check_rows(name, rows, lu)
    if bias is not None:
        _check_like_lu("bias", bias, lu, bias.shape == lu.shape[:1], "(n,)")


def _is_dense(rows: Tensor, lu: Tensor) -> bool:
    """Whether the forward pass is dense: it then keeps L U, flat, instead of h."""
    least = dense_rows(int(lu.shape[0]), lu.dtype, lu.device)
    return least != NEVER and rows.numel() // lu.shape[0] >= least


def _register_fake(operator: str, argument: str) -> None:
    """Registers a fake kernel; it checks devices, since it also runs if only some are on meta."""

    @torch.library.register_fake(f"invcap::{operator}")
    def _(
        rows: Tensor, lu: Tensor, bias: Tensor | None, diagonal: float, negative_slope: float
    ) -> tuple[Tensor, Tensor]:
        _check_layer(argument, rows, lu, bias)
        kept = lu.numel() if argument == "x" and _is_dense(rows, lu) else rows.shape
        return rows.new_empty(rows.shape), rows.new_empty(kept)


_register_fake("lu_leaky", "x")
_register_fake("lu_leaky_inverse", "y")


@torch.library.register_fake("invcap::lu_leaky_network")
def _network_fake(
    rows: Tensor,
    lu: list[Tensor],
    bias: list[Tensor | None],
    diagonals: list[float],
    negative_slopes: list[float],
    inverse: bool,
) -> Tensor:
    for weights, offsets in zip(lu, bias, strict=True):
        _check_layer("y" if inverse else "x", rows, weights, offsets)
    return rows.new_empty(rows.shape)


@torch.library.register_fake("invcap::lu_leaky_backward")
@torch.library.register_fake("invcap::lu_leaky_inverse_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    h: Tensor,
    lu: Tensor,
    diagonal: float,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_rows("x", x, lu)
    for argument, tensor in (("grad", grad), ("y", y)):
        _check_like_lu(argument, tensor, lu, tensor.shape == x.shape, "of x")
    fits = h.shape == x.shape or (h.dim() == 1 and h.numel() == lu.numel())
    _check_like_lu("h", h, lu, fits, "of x")
    return grad.new_empty(grad.shape), lu.new_empty(lu.shape), lu.new_empty(lu.shape[:1])


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, x, y, _, lu, ctx.diagonal, ctx.negative_slope = inputs
    ctx.save_for_backward(grad, x, y, lu)


def factors(lu: Tensor, diagonal: float) -> tuple[Tensor, Tensor]:
    """Returns L and U, dense (n, n)."""
    scaled_identity = diagonal * torch.eye(lu.shape[0], dtype=lu.dtype, device=lu.device)
    return lu.tril(-1) + scaled_identity, lu.triu(1) + scaled_identity


def _widened(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _as_rows(n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.reshape(-1, n).to(_widened(tensor.dtype)) for tensor in tensors)


def _leaky(rows: Tensor, y: Tensor, slope: float) -> Tensor:
    return torch.where(y < 0, slope * rows, rows)


def _double_backward_result(
    grad_grad: Tensor, grad_x: Tensor, grad_lu: Tensor, dtype: torch.dtype, shape: torch.Size
) -> tuple[Tensor | None, ...]:
    """One gradient for each argument of a backward operator."""
    grad_grad, grad_x = (rows.to(dtype).reshape(shape) for rows in (grad_grad, grad_x))
    return grad_grad, grad_x, None, None, grad_lu.to(dtype), None, None


def _lu_leaky_double_backward(
    ctx: Any, vx: Tensor, vlu: Tensor, vb: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradient of <vx, gx> + <vlu, glu> + <vb, gb>, which is <gz, dz> for the tangent

    dz = (vx U^T + x vU^T) L^T + h vL^T + vb

    of z in the direction (vx, vlu, vb). Plain torch, hence differentiable to any order.
    """
    gy, x, y, lu = ctx.saved_tensors
    dtype, shape, n = x.dtype, x.shape, lu.shape[0]
    gy, x, y, vx, lu, vlu, vb = _as_rows(n, gy, x, y, vx, lu, vlu, vb)
    lower, upper = factors(lu, ctx.diagonal)
    v_lower, v_upper = vlu.tril(-1), vlu.triu(1)
    gz = _leaky(gy, y, ctx.negative_slope)
    gh = gz @ lower
    dh = vx @ upper.T + x @ v_upper.T
    dz = dh @ lower.T + x @ upper.T @ v_lower.T + vb
    grad_x = gh @ v_upper + gz @ v_lower @ upper
    grad_lu = (gz.T @ dh).tril(-1) + (gh.T @ vx + (gz @ v_lower).T @ x).triu(1)
    grad_gy = _leaky(dz, y, ctx.negative_slope)
    return _double_backward_result(grad_gy, grad_x, grad_lu, dtype, shape)


def _lu_leaky_inverse_double_backward(
    ctx: Any, vy: Tensor, vlu: Tensor, vb: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradient of <vy, gy> + <vlu, glu> + <vb, gb>, which is <a, gz> - <x vU^T, gh> with

    a = vy / m - h vL^T - vb

    Plain torch, hence differentiable to any order.
    """
    gx, x, y, lu = ctx.saved_tensors
    dtype, shape, n = x.dtype, x.shape, lu.shape[0]
    gx, x, y, vy, lu, vlu, vb = _as_rows(n, gx, x, y, vy, lu, vlu, vb)
    lower, upper = factors(lu, ctx.diagonal)
    v_lower, v_upper = vlu.tril(-1), vlu.triu(1)
    solve = torch.linalg.solve_triangular
    gh = solve(upper, gx, upper=True, left=False)
    gz = solve(lower, gh, upper=False, left=False)
    a = _leaky(vy, y, 1 / ctx.negative_slope) - x @ upper.T @ v_lower.T - vb
    a = solve(lower.T, a, upper=True, left=False)
    grad_gx = solve(upper.T, a - x @ v_upper.T, upper=False, left=False)
    grad_x = -(gz @ v_lower @ upper) - gh @ v_upper
    grad_lu = -(gz.T @ a).tril(-1) - (gh.T @ grad_gx + (gz @ v_lower).T @ x).triu(1)
    return _double_backward_result(grad_gx, grad_x, grad_lu, dtype, shape)


for name, formula in (
    ("lu_leaky_backward", _lu_leaky_double_backward),
    ("lu_leaky_inverse_backward", _lu_leaky_inverse_double_backward),
):
    torch.library.register_autograd(f"invcap::{name}", formula, setup_context=_backward_setup)
