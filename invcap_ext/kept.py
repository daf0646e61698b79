"""A cache for the dense inverse of a frozen layer, valid while its weights do not change."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invcap_ext._C import kept_rows
from invcap_ext.merged import DenseInverse, dense_inverse


@dataclass(frozen=True)
class Weights:
    """A copy of an inverse's weights: lu (n, n), bias (n,) or None, diagonal c."""

    lu: Tensor
    bias: Tensor | None
    diagonal: float

    def are(self, lu: Tensor, bias: Tensor | None, diagonal: float) -> bool:
        """Compares every number, so that no change of the weights can leave a stale inverse."""
        return diagonal == self.diagonal and _same(self.lu, lu) and _same(self.bias, bias)


class KeptInverse:
    """W^-1 of one frozen layer as one matrix, computed at the first call with given weights.

    It is not a buffer: it is not saved, copied, cast or sent to other processes, but computed
    again. It takes 2 n^2 numbers, and each call reads 2 n^2 to compare the weights.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Frees the memory."""
        self._weights: Weights | None = None
        self._inverse: DenseInverse | None = None

    def find(self, lu: Tensor, bias: Tensor | None, diagonal: float) -> DenseInverse | None:
        """Returns the inverse; None where substitution is more exact."""
        if self._weights is None or not self._weights.are(lu, bias, diagonal):
            self._inverse = dense_inverse(lu, bias, diagonal)
            copied = None if bias is None else bias.detach().clone()
            self._weights = Weights(lu.detach().clone(), copied, diagonal)
        return self._inverse

    def __reduce__(self) -> tuple[type["KeptInverse"], tuple[()]]:
        return KeptInverse, ()


def uses_kept_inverse(rows: Tensor, lu: Tensor) -> bool:
    """Whether rows (..., n) are inverted by the cached matrix: many rows, and frozen weights.

    The result depends only on the call, so that the same call gives the same bits, whatever was
    called before.
    """
    return (
        not lu.requires_grad
        and not torch.compiler.is_compiling()
        and type(lu) in (Tensor, nn.Parameter)
        and lu.dtype == rows.dtype
        and lu.device == rows.device
        and rows.dim() > 0
        and rows.shape[-1] == lu.shape[0]
        and rows.numel() // lu.shape[0] >= kept_rows(lu.shape[0], lu.dtype, lu.device)
        and not torch.is_autocast_enabled(lu.device.type)
        and not (lu.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
