"""What of a prompt is optimized: its conditioning, the vectors of its tokens, or the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion.state import root_mean_square
from invcap.prompt_inversion.tokens import Words

Parametrization = Literal["hidden_states", "conditioning", "token_vectors", "tokens"]
OVER_TOKENS = ("token_vectors", "tokens")
SMALLEST = 1e-8
ConditioningOf = Callable[[Tensor, Tensor], Conditioning]


def parametrize(
    model: FrozenTextToImage,
    starts: Sequence[str] | Conditioning,
    over: Parametrization,
    axes: Tensor | None = None,
) -> tuple[Tensor, ConditioningOf]:
    """The vectors of P prompts to optimize, and a function from vectors to conditioning.

    Over "conditioning", the pooled embedding is optimized too; both tensors are divided by their
    root mean square at the start, so that steps are relative to it. Over "tokens", the text encoder
    sees the tokens nearest to the vectors; gradients go straight through to the vectors.

    Args:
        model: the model.
        starts: P sentences, or their conditioning unless tokens are optimized.
        over: what is optimized.
        axes: (d, d), orthonormal columns, along which hidden states are optimized.

    Returns:
        Vectors (P, N, d) float32: hidden states along the axes; these and the pooled embedding as
        one column, (P, N, 1); or one vector for each token of the sentences. A differentiable
        function that maps the vectors (A, N, d) of some images, and the indices (A,) of these
        images, to their conditioning.

    Raises:
        ValueError: `over` or a sentence cannot be used, the model has no pooled embedding, or
            tokens are optimized and the sentences differ in their number.

    Source: over tokens, Wen et al., "Hard prompts made easy" (2023), algorithm 1 (PEZ).
    """
    check_over(model, over)
    if over in OVER_TOKENS:
        return _over_tokens(model, starts, over)
    start = starts if isinstance(starts, Conditioning) else model.encode_prompts(starts)
    hidden = model.optimized
    first, rest = start.tensors[hidden].tensor_split([model.optimized_tokens], 1)
    parts = {hidden: first}
    if axes is not None:
        axes = axes.to(parts[hidden])
        parts[hidden] = parts[hidden] @ axes
    if over == "hidden_states":
        vectors, parts_of = parts[hidden], lambda vectors, rows: {hidden: vectors}
    else:
        vectors, parts_of = _joined(parts | {str(model.pooled): start.tensors[str(model.pooled)]})

    def conditioning_of(vectors: Tensor, rows: Tensor) -> Conditioning:
        changed = parts_of(vectors, rows)
        if axes is not None:
            changed[hidden] = changed[hidden] @ axes.T
        changed[hidden] = torch.cat([changed[hidden], rest[rows]], 1)
        return start[rows].replace(**changed)

    return vectors, conditioning_of


def check_over(model: FrozenTextToImage, over: str) -> None:
    """Raises ValueError unless a model's prompts can be optimized in this parametrization."""
    if over not in get_args(Parametrization):
        raise ValueError(f"over must be one of {get_args(Parametrization)}, got {over!r}")
    if over == "conditioning" and model.pooled is None:
        raise ValueError(
            f"over 'conditioning' needs a model with a pooled embedding, got {model.name or 'one'} "
            "without"
        )


def _joined(
    tensors: Mapping[str, Tensor],
) -> tuple[Tensor, Callable[[Tensor, Tensor], dict[str, Tensor]]]:
    """Tensors (P, ...), each divided by its root mean square, as one (P, N, 1); and the inverse."""
    sizes = {
        name: root_mean_square(tensor).clamp(min=SMALLEST)[:, None]
        for name, tensor in tensors.items()
    }
    rows = [tensor.flatten(1) / sizes[name] for name, tensor in tensors.items()]
    widths = [row.shape[1] for row in rows]

    def parts_of(vectors: Tensor, rows: Tensor) -> dict[str, Tensor]:
        parts = vectors.squeeze(2).split(widths, 1)
        return {
            name: (part * sizes[name][rows]).view(-1, *tensors[name].shape[1:])
            for name, part in zip(tensors, parts, strict=True)
        }

    return torch.cat(rows, 1)[..., None], parts_of


def _over_tokens(
    model: FrozenTextToImage, starts: Sequence[str] | Conditioning, over: Parametrization
) -> tuple[Tensor, ConditioningOf]:
    if isinstance(starts, Conditioning):
        raise ValueError(f"start must be sentences over {over!r}, got hidden states")
    for start in starts:
        model.check_tokens(start)
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
