"""Weights that are kept in one dtype or place, and converted when a layer uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
VIEWS = (aten.detach.default, aten.alias.default, aten.t.default, aten.view.default)


class KeptWeight(Tensor):
    """A frozen weight whose dtype and device are those of the arithmetic, not of its storage.

    Each operation converts it anew, in the backward pass too, so at any time only the layer that
    computes has its weight in full. (Hooks around a layer, such as diffusers' layerwise casting and
    group offloading, take the weight away before the backward pass needs it.)

    Args:
        kept: the weight as it is stored.
        device: where operations on it compute.
        dtype: in which they compute.
    """

    kept: Tensor

    @staticmethod
    def __new__(cls, kept: Tensor, device: torch.device, dtype: torch.dtype) -> KeptWeight:
        return Tensor._make_wrapper_subclass(
            cls, kept.shape, strides=kept.stride(), dtype=dtype, device=device
        )

    def __init__(self, kept: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.kept = kept

    def __repr__(self) -> str:  # type: ignore[override]
        return f"KeptWeight({self.kept.dtype} on {self.kept.device}, as {self.dtype})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["kept"], (self.device, self.dtype)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], context: Any, size: Any, stride: Any
    ) -> KeptWeight:
        return KeptWeight(inner["kept"], *context)

    def converted(self) -> Tensor:
        """An ordinary tensor of the same values."""
        return self.kept.to(self.device, self.dtype, non_blocking=self.kept.is_pinned())

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first, options = args[0], kwargs or {}
        if function in VIEWS:
            return cls(function(first.kept, *args[1:]), first.device, first.dtype)
        if function is aten._to_copy.default and options.get("dtype") in (None, first.dtype):
            device = torch.device(options.get("device") or first.device)
            beside = first.kept.device == first.device
            return cls(first.kept.to(device) if beside else first.kept, device, first.dtype)
        if function is aten.embedding.default and isinstance(first, cls):
            rows = function(first.kept, args[1].to(first.kept.device))
            return rows.to(first.device, first.dtype)
        args, options = tree_map_only(cls, cls.converted, (args, options))
        return function(*args, **options)


def keep_weights(
    network: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> None:
    """Lets a frozen network compute elsewhere or in another dtype than its weights are stored in.

    Vectors, such as biases and the weights of norms, are small and converted once.

    Args:
        network: changed in place.
        device: where it computes, by default where each weight is.
        dtype: in which it computes, by default each weight's own.
    """

    def keep(tensor: Tensor) -> Tensor:
        there = device or tensor.device
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        if tensor.ndim < 2 or not tensor.is_floating_point():
            return tensor.to(there, kind)
        kept = tensor.kept if isinstance(tensor, KeptWeight) else tensor
        pinned = there.type == "cuda" and kept.device.type == "cpu"
        return KeptWeight(kept.pin_memory() if pinned else kept, there, kind)

    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kept = nn.Parameter(keep(parameter.detach()), requires_grad=False)
            setattr(module, name, kept)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, keep(buffer))
