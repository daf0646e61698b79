"""Prompts in words: read out of vectors, and ranked by what they make likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invcap.diffusion.noise_samples import NoiseSamples, draw_samples
from invcap.prompt_inversion.parametrization import nearest_tokens

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline


@dataclass(frozen=True)
class Ranking:
    """Prompts by their likelihood.

    Attributes:
        prompts: the best first.
        evaluations: of the UNet, without gradient, that it took.
    """

    prompts: list[str]
    evaluations: int


def rank(
    pipeline: PromptInversionPipeline,
    latents: Tensor,
    prompts: Sequence[str],
    draws: int = 128,
    seed: int = 0,
) -> Ranking:
    """Ranks prompts by log p(latents | prompt) + log p(prompt), by successive halving.

    The first is their bound on one bank: all are measured on an eighth of it, the better half on
    another eighth, and so on: what is left at the end has been measured on all of it. The second
    falls as one over a prompt's place: a few nats, which decide only between prompts that the model
    hardly tells apart.

    Args:
        latents: (C, h, w), of the picture.
        prompts: at least one, those that are rather expected first.
        draws: pairs of the whole bank, a multiple of 8.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016); Zipf's law.
    """
    if draws < 8 or draws % 8:
        raise ValueError(f"draws must be a multiple of 8, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    bank = draw_samples(pipeline.schedule, draws, tuple(latents.shape), generator)
    hidden = pipeline.encode_prompts(prompts)
    total = torch.zeros(len(prompts), dtype=torch.float64)
    prior = -torch.arange(1, len(prompts) + 1, dtype=torch.float64).log()
    left, lost, measured, evaluations = torch.arange(len(prompts)), [], 0, 0
    for first, stride in ((0, 8), (4, 8), (2, 4), (1, 2)):
        part = part_of(bank, slice(first, None, stride))
        for index in left.tolist():
            total[index] += pipeline.bound_terms(latents, hidden[index], part).sum()
        measured += len(part)
        evaluations += len(part) * len(left)
        nats = total[left] / measured * latents.numel() + prior[left]
        left = left[nats.argsort(descending=True)]
        kept = (len(left) + 1) // 2
        lost.append(left[kept:])
        left = left[:kept]
    order = torch.cat([left, *reversed(lost)]).tolist()
    return Ranking([prompts[index] for index in order], evaluations)


def part_of(bank: NoiseSamples, part: slice) -> NoiseSamples:
    """Some of a bank's pairs."""
    return NoiseSamples(bank.steps[part], bank.noise[part], bank.importance[part])


def read_tokens(pipeline: PromptInversionPipeline, vectors: Tensor) -> list[str]:
    """Says token vectors (P, n, d) in the words that are nearest."""
    ids, _ = nearest_tokens(pipeline, vectors)
    return [text.strip() for text in pipeline.tokenizer.batch_decode(ids[..., 0])]
