"""Attention to a token that is there many times, at the cost of one."""

from __future__ import annotations

from math import log
from typing import Any

from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class RepeatedLastKey(TorchFunctionMode):
    """While it is active, attention counts the last of its keys as `times` equal ones.

    Tokens that are equal, without positions, stay equal in every layer of a transformer. One of
    them stands for all if its logit is raised by log(times) before the softmax.

    Args:
        times: number of equal tokens.
        keys: number of keys of the attention that is meant; any other is left as it is.
    """

    def __init__(self, times: int, keys: int) -> None:
        super().__init__()
        self.times, self.keys = times, keys

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is scaled_dot_product_attention and args[1].shape[-2] == self.keys:
            bias = args[1].new_zeros(1, self.keys)
            bias[0, -1] = log(self.times)
            kwargs = kwargs | {"attn_mask": bias}
        return function(*args, **kwargs)
