"""Prompts in words, ranked by their likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any, Protocol

import torch
from torch import Tensor

from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.likelihood import LogLikelihood
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


class Contest:
    """Prompts for one image on shared noise samples; none is measured twice on the same.

    Args:
        model: the model.
        latents: (C, h, w), of the image.
        draws: all noise samples, a multiple of 2^rounds.
        generator: of the noise samples.
        rounds: how often the samples double, from the first few to all.
        timestep_range: first diffusion step of the samples, and the one after the last.
        budget: most evaluations of the denoiser.

    Attributes:
        evaluations: of the denoiser, without gradient, so far.
        terms: of each prompt, nats, on the samples that it was measured on, in the order of
            `order`.
    """

    def __init__(
        self,
        model: FrozenTextToImage,
        latents: Tensor,
        draws: int,
        generator: torch.Generator,
        rounds: int = 3,
        timestep_range: tuple[int, int] | None = None,
        budget: float = inf,
    ) -> None:
        unit = 2**rounds
        if draws < unit or draws % unit:
            raise ValueError(f"draws must be a multiple of {unit}, got {draws}")
        shape = tuple(latents.shape)
        samples = draw_samples(model.schedule, draws, shape, generator, timestep_range)
        # Each part, with those before it, is spread evenly over all noise levels.
        parts = [torch.arange(0, draws, unit)]
        parts += [torch.arange(2**r, draws, 2 ** (r + 1)) for r in reversed(range(rounds))]
        self.order = torch.cat(parts)
        self.ends = list(accumulate(map(len, parts)))
        self.model, self.latents = model, latents
        self.samples = samples[self.order].to(model.device)
        self.budget, self.evaluations = budget, 0
        self.terms: dict[str, Tensor] = {}

    def halve(
        self,
        prompts: Sequence[str],
        finalists: int = 1,
        prior: Tensor | None = None,
        kept: float = 0.5,
    ) -> list[str]:
        """Orders different prompts by their bounds, the best first, by successive halving.

        All are measured on the first few samples, the better half on twice as many, and so on.
        Prompts that the budget does not suffice for, the last ones, are left out.

        Args:
            finalists: how many are measured on all samples, at least.
            prior: log p of each prompt, nats; by default that of all is 0.
            kept: share that is kept after each round.

        Source: Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016).
        """
        left, lost = list(prompts), []
        known = dict.fromkeys(prompts, 0.0)
        if prior is not None:
            known = dict(zip(prompts, prior.tolist(), strict=True))
        for end in self.ends:
            left = self._affordable(left, end)
            if not left:
                break
            nats = self.measure(left, end) + torch.tensor([known[p] for p in left]).double()
            left = [left[i] for i in nats.argsort(descending=True, stable=True).tolist()]
            count = max(-int(-len(left) * kept // 1), min(finalists, len(left)))
            lost.append(left[count:])
            left = left[:count]
        return left + [prompt for some in reversed(lost) for prompt in some]

    def measure(self, prompts: Sequence[str], end: int) -> Tensor:
        """The bounds (N,) of N prompts, nats, on the first `end` samples of `order`."""
        done = {prompt: self._done(prompt) for prompt in prompts}
        for start in sorted({count for count in done.values() if count < end}):
            missing = [prompt for prompt, count in done.items() if count == start]
            found = bound_terms(
                self.model,
                self.latents.expand(len(missing), *self.latents.shape),
                self.model.encode_prompts(missing),
                self.samples[slice(start, end)].expand(len(missing)),
            )
            self.evaluations += found.numel()
            for prompt, row in zip(missing, found.cpu() * self.latents.numel(), strict=True):
                self.terms[prompt] = torch.cat([self.terms.get(prompt, row[:0]), row])
        return torch.stack([self.terms[prompt][:end].mean() for prompt in prompts])

    def is_likelier(self, prompt: str, other: str) -> bool:
        """Whether a prompt was measured on all samples, and its bound is above another's."""
        if self._done(prompt) < len(self.order) or not self._affordable([other], len(self.order)):
            return False
        bound, below = self.measure([prompt, other], len(self.order)).tolist()
        return bound > below

    def log_likelihood(self, prompts: Sequence[str]) -> LogLikelihood:
        """The bounds of prompts that were measured on all samples."""
        back = self.order.argsort()
        terms = torch.stack([self.terms[prompt][back] for prompt in prompts])
        return LogLikelihood(list(prompts), terms / self.latents.numel())

    def _done(self, prompt: str) -> int:
        return len(self.terms[prompt]) if prompt in self.terms else 0

    def _affordable(self, prompts: Sequence[str], end: int) -> list[str]:
        """The first ones, as many as can be measured on `end` samples within the budget."""
        costs = accumulate(max(0, end - self._done(prompt)) for prompt in prompts)
        rest = self.budget - self.evaluations
        return [prompt for prompt, cost in zip(prompts, costs, strict=True) if cost <= rest]


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

    Source: Zipf's law for the second.
    """
    contest = Contest(model, latents, draws, torch.Generator().manual_seed(seed))
    return Ranking(contest.halve(prompts, prior=by_place(len(prompts))), contest.evaluations)


def by_place(count: int) -> Tensor:
    """log p of prompts in their order, up to a constant: it falls as one over a prompt's place."""
    return -torch.arange(1, count + 1, dtype=torch.float64).log()
