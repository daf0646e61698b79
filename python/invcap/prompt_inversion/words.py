"""Prompts in words, ranked by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.objective import bound_terms


class Captioner(Protocol):
    """What says which sentences may describe images, such as `InvertibleCaptioner`."""

    def compose(self, images: Any, top_k: int) -> Sequence[Sequence[Any]]:
        """For each image, at most `top_k` captions with a `text`, best first."""
        ...


@dataclass(frozen=True)
class Ranking:
    """Prompts by their likelihood.

    Attributes:
        prompts: the best first.
        evaluations: of the denoiser, without gradient, that it took.
    """

    prompts: list[str]
    evaluations: int


def rank(
    model: FrozenTextToImage,
    latents: Tensor,
    prompts: Sequence[str],
    draws: int = 128,
    seed: int = 0,
) -> Ranking:
    """Ranks prompts by log p(latents | prompt) + log p(prompt), by successive halving.

    The first is their bound, on the same noise samples: all are measured on an eighth of them, the
    better half on another eighth, and so on: what is left at the end has been measured on all.
    The second falls as one over a prompt's place: a few nats, which decide only between prompts
    that the model hardly tells apart.

    Args:
        latents: (C, h, w), of the image.
        prompts: at least one, the more expected ones first.
        draws: all noise samples, a multiple of 8.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016); Zipf's law.
    """
    if draws < 8 or draws % 8:
        raise ValueError(f"draws must be a multiple of 8, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    samples = draw_samples(model.schedule, draws, tuple(latents.shape), generator)
    samples = samples.to(model.device)
    conditioning = model.encode_prompts(prompts)
    total = torch.zeros(len(prompts), dtype=torch.float64)
    prior = -torch.arange(1, len(prompts) + 1, dtype=torch.float64).log()
    left, lost, measured, evaluations = torch.arange(len(prompts)), [], 0, 0
    for first, stride in ((0, 8), (4, 8), (2, 4), (1, 2)):
        part = samples[first::stride].expand(len(left))
        repeated = latents.expand(len(left), *latents.shape)
        terms = bound_terms(model, repeated, conditioning[left.to(model.device)], part)
        total[left] += terms.sum(1).cpu()
        measured += terms.shape[1]
        evaluations += terms.numel()
        nats = total[left] / measured * latents.numel() + prior[left]
        left = left[nats.argsort(descending=True)]
        kept = (len(left) + 1) // 2
        lost.append(left[kept:])
        left = left[:kept]
    order = torch.cat([left, *reversed(lost)]).tolist()
    return Ranking([prompts[index] for index in order], evaluations)
