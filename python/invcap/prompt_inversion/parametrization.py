"""What of a prompt is optimized: its hidden states, the vectors of its tokens, or the tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion.tokens import Words

Parametrization = Literal["hidden_states", "token_vectors", "tokens"]
ConditioningOf = Callable[[Tensor, Tensor], Conditioning]


def parametrize(
    model: FrozenTextToImage,
    starts: Sequence[str] | Conditioning,
    over: Parametrization,
    axes: Tensor | None = None,
) -> tuple[Tensor, ConditioningOf]:
    """The vectors of P prompts to optimize, and the way from them to the prompts' conditioning.

    Over "tokens", the text encoder sees the tokens nearest to the vectors, and gradients pass as if
    it had seen the vectors.

    Args:
        starts: P sentences, or, over hidden states, their conditioning.
        axes: (d, d), orthonormal columns, along which hidden states are optimized.

    Returns:
        Vectors (P, N, d) float32: hidden states along the axes, or one for each token of the
        sentences. A differentiable function of some images' vectors (A, N, d), and which of the P
        these are (A,), to their conditioning.

    Raises:
        ValueError: `over` or a sentence cannot be used, or tokens are to be optimized and the
            sentences have different numbers of them.

    Source: over tokens, Wen et al., "Hard prompts made easy" (2023), algorithm 1 (PEZ).
    """
    if over not in get_args(Parametrization):
        raise ValueError(f"over must be one of {get_args(Parametrization)}, got {over!r}")
    if over != "hidden_states":
        return _over_tokens(model, starts, over)
    start = starts if isinstance(starts, Conditioning) else model.encode_prompts(starts)
    name = model.optimized
    vectors = start.tensors[name]
    if axes is None:
        return vectors, lambda vectors, rows: start[rows].replace(**{name: vectors})
    axes = axes.to(vectors)
    return vectors @ axes, lambda vectors, rows: start[rows].replace(**{name: vectors @ axes.T})


def _over_tokens(
    model: FrozenTextToImage, starts: Sequence[str] | Conditioning, over: Parametrization
) -> tuple[Tensor, ConditioningOf]:
    if isinstance(starts, Conditioning):
        raise ValueError(f"start must be sentences over {over!r}, got hidden states")
    for start in starts:
        model.check_prompt(start)
    tokens = [model.tokenize(start) for start in starts]
    counts = sorted({len(numbers) for numbers in tokens})
    if len(counts) > 1:
        raise ValueError(f"start must have equally many tokens for all images, got {counts}")
    table = model.token_table
    vectors = table[torch.tensor(tokens, device=table.device)]
    if over == "token_vectors":
        return vectors, lambda vectors, rows: model.encode_tokens(vectors)
    words = Words.of(model)

    def conditioning_of(vectors: Tensor, rows: Tensor) -> Conditioning:
        nearest = words.vectors[words.nearest(vectors.detach())[..., 0]]
        return model.encode_tokens(vectors + (nearest - vectors).detach())

    return vectors, conditioning_of
