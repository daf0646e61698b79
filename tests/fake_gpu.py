"""Tensors of a GPU that is not there: shapes and devices without data, and no graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within it, device "cuda" may be named; torch raises where devices mix.

    Gradients of such tensors need a torch that was built with CUDA.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _WithoutGuards():
        yield


def move_without_data(module: nn.Module, device: str) -> None:
    """Gives a module weights without data on a device that need not be there."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            setattr(part, name, nn.Parameter(empty, requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


class _WithoutGuards(TorchFunctionMode):
    """Takes other ways for what asks CUDA for a device, which a torch without it cannot."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), options: Any = None):
        if function is Tensor.__getitem__:
            return _viewed(*args)
        if function is Tensor.__setitem__:
            tensor, index, value = args
            return _assign(tensor, index, value)
        if function is Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        return function(*args, **(options or {}))


def _viewed(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, for the kinds of indices that are used here."""
    chosen: list[Tensor | None] = []
    for part in index if isinstance(index, tuple) else (index,):
        axis = len(chosen)
        if isinstance(part, Tensor | list):
            chosen.append(_on(tensor, part))
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, axis, part.start, part.stop, part.step or 1)
            chosen.append(None)
        elif part is None:
            tensor = tensor.unsqueeze(axis)
            chosen.append(None)
        elif part is Ellipsis:
            chosen += [None] * (tensor.ndim - len(index) + 1)
        else:
            tensor = tensor.select(axis, part)
    if all(part is None for part in chosen):
        return tensor
    return torch.ops.aten.index(tensor, chosen)


def _assign(tensor: Tensor, index: Any, value: Any) -> None:
    value = _on(tensor, value)
    if isinstance(index, Tensor):
        torch.ops.aten.index_put_(tensor, [_on(tensor, index)], value)
    else:
        torch.ops.aten.copy_(_viewed(tensor, index), value)


def _on(tensor: Tensor, value: Any) -> Tensor:
    """A number or list as a tensor beside another; a tensor must be there already."""
    if not isinstance(value, Tensor):
        return torch.as_tensor(value, device=tensor.device)
    if value.device != tensor.device:
        raise RuntimeError(f"expected a tensor on {tensor.device}, got one on {value.device}")
    return value
