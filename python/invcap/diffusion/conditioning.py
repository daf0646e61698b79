"""Prompts as the named tensors that a model's pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """N prompts, encoded.

    Attributes:
        tensors: names in the pipeline's call, such as `prompt_embeds`, to tensors whose first axis
            has length N.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> Conditioning:
        """Some of the prompts, by a slice or indices."""
        return self.map(lambda tensor: tensor[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """Applies a function to every tensor."""
        return Conditioning({name: function(tensor) for name, tensor in self.tensors.items()})

    def replace(self, **tensors: Tensor) -> Conditioning:
        """The same prompts with other values of some tensors."""
        return Conditioning({**self.tensors, **tensors})

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device))


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """All prompts of some conditionings of one kind, in their order."""
    names = parts[0].tensors
    return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in names})


def with_pooled(hidden: Tensor, pooled: Tensor) -> Conditioning:
    """Hidden states (N, n, d) and the pooled embedding (N, m) of N prompts, float32."""
    return Conditioning({"prompt_embeds": hidden.float(), "pooled_prompt_embeds": pooled.float()})
