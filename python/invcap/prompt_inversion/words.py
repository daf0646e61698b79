"""Ranking of prompts in words by their likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, log
from typing import Any, Protocol

import torch
from torch import Tensor

from invcap.diffusion.model import FrozenTextToImage, few
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.likelihood import LogLikelihood
from invcap.prompt_inversion.objective import bound_terms

FEWEST = 8


class Captioner(Protocol):
    """A source of captions for images, such as `InvertibleCaptioner`."""

    def compose(self, images: Any, top_k: int) -> Sequence[Sequence[Any]]:
        """For each image, at most `top_k` captions with a `text`, best first."""
        ...


@dataclass(frozen=True)
class Ranking:
    """Prompts ranked by likelihood.

    Attributes:
        prompts: the prompts, the best first.
        evaluations: number of denoiser evaluations, without gradient, for the ranking.
    """

    prompts: list[str]
    evaluations: int


class Contest:
    """Compares prompts for one image on shared noise samples; keeps every term it has computed.

    Args:
        model: the model.
        latents: (C, h, w), of the image.
        draws: total number of noise samples, a multiple of 2^rounds.
        generator: draws the noise samples.
        rounds: how many times the number of samples doubles before it reaches `draws`.
        timestep_range: first diffusion step of the samples, and the one after the last.
        budget: the largest number of denoiser evaluations.
        log_prior: log p(prompt), nats, up to a constant.

    Attributes:
        evaluations: number of denoiser evaluations, without gradient, so far.
        terms: for each prompt its terms, nats, on the first samples in the order of `order`.
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
        log_prior: Callable[[str], float] = lambda prompt: 0.0,
    ) -> None:
        unit = 2**rounds
        if draws < unit or draws % unit:
            raise ValueError(f"draws must be a multiple of {unit}, got {draws}")
        shape = tuple(latents.shape)
        samples = draw_samples(model.schedule, draws, shape, generator, timestep_range)
        # After each doubling, the samples so far are spread evenly over all noise levels.
        parts = [torch.arange(unit // 2, draws, unit)]
        if rounds:
            parts.append(torch.arange(0, draws, unit))
            parts += [torch.arange(2**r, draws, 2 * 2**r) for r in reversed(range(rounds - 1))]
        self.order = torch.cat(parts)
        self.ends = list(accumulate(map(len, parts)))
        self.model, self.latents = model, latents
        self.samples = samples[self.order].to(model.device)
        self.log_prior = log_prior
        self.budget, self.evaluations = budget, 0
        self.terms: dict[str, Tensor] = {}

    def halve(self, prompts: Sequence[str], finalists: int = 1, kept: float = 0.5) -> list[str]:
        """Sorts different prompts, the likeliest first, by successive halving.

        All are measured on the first few samples, the better half on twice as many, and so on.
        The last prompts are left out if the budget does not suffice for all.

        Args:
            prompts: the prompts.
            finalists: the smallest number of prompts that are measured on all samples.
            kept: fraction that is kept after each round.

        Source: Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016).
        """
        left, lost = list(prompts), []
        for end in self.ends:
            left = self._affordable(left, end)
            if not left:
                break
            nats = self.measure(left, end)
            left = [left[i] for i in nats.argsort(descending=True, stable=True).tolist()]
            count = max(-int(-len(left) * kept // 1), min(finalists, len(left)))
            lost.append(left[count:])
            left = left[:count]
        return left + [prompt for some in reversed(lost) for prompt in some]

    def measure(self, prompts: Sequence[str], end: int) -> Tensor:
        """Bound plus `log_prior` of N prompts, nats, (N,), on the first `end` samples."""
        done = {prompt: self._done(prompt) for prompt in prompts}
        for start in sorted({count for count in done.values() if count < end}):
            for missing in few([prompt for prompt, count in done.items() if count == start]):
                found = bound_terms(
                    self.model,
                    self.latents.expand(len(missing), *self.latents.shape),
                    self.model.encode_prompts(missing),
                    self.samples[slice(start, end)].expand(len(missing)),
                )
                self.evaluations += found.numel()
                for prompt, row in zip(missing, found.cpu() * self.latents.numel(), strict=True):
                    self.terms[prompt] = torch.cat([self.terms.get(prompt, row[:0]), row])
        return torch.stack(
            [self.terms[prompt][:end].mean() + self.log_prior(prompt) for prompt in prompts]
        )

    def is_likelier(self, prompt: str, other: str) -> bool:
        """Whether a prompt has been measured on all samples and is likelier than another."""
        if self._done(prompt) < len(self.order) or not self._affordable([other], len(self.order)):
            return False
        mine, its = self.measure([prompt, other], len(self.order)).tolist()
        return mine > its

    def log_likelihood(self, prompts: Sequence[str]) -> LogLikelihood:
        """The bounds of prompts that have been measured on all samples."""
        back = self.order.argsort()
        terms = torch.stack([self.terms[prompt][back] for prompt in prompts])
        return LogLikelihood(list(prompts), terms / self.latents.numel())

    def _done(self, prompt: str) -> int:
        return len(self.terms[prompt]) if prompt in self.terms else 0

    def _affordable(self, prompts: Sequence[str], end: int) -> list[str]:
        """The first prompts, as many as the budget allows to measure on `end` samples."""
        costs = accumulate(max(0, end - self._done(prompt)) for prompt in prompts)
        rest = self.budget - self.evaluations
        return [prompt for prompt, cost in zip(prompts, costs, strict=True) if cost <= rest]


def doublings(draws: int) -> int:
    """How many times a number of at least 8 noise samples doubles to reach `draws`."""
    count = 0
    while draws % 2 ** (count + 1) == 0 and draws >> (count + 1) >= FEWEST:
        count += 1
    return count


def rank(
    model: FrozenTextToImage,
    latents: Tensor,
    prompts: Sequence[str],
    draws: int = 128,
    seed: int = 0,
) -> Ranking:
    """Ranks prompts by log p(latents | prompt) + log p(prompt), by successive halving.

    The first term is the bound, on shared noise samples: all prompts are measured on an eighth of
    them, the better half on another eighth, and so on, until the rest is measured on all. The
    second is -log(position in the list): a few nats, which matter only between prompts that the
    model hardly distinguishes.

    Args:
        model: the model.
        latents: (C, h, w), of the image.
        prompts: at least one, the most expected first.
        draws: total number of noise samples, a multiple of 8.
        seed: seed of the noise samples.

    Source: Zipf's law for the second term.
    """
    prior = {prompt: -log(place) for place, prompt in enumerate(prompts, 1)}
    generator = torch.Generator().manual_seed(seed)
    contest = Contest(model, latents, draws, generator, log_prior=prior.__getitem__)
    return Ranking(contest.halve(prompts), contest.evaluations)
