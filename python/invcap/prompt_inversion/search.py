"""The likeliest prompt in words, searched among all that a bank's vocabulary can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.checks import check_at_least, check_fraction
from invcap.diffusion.model import FrozenTextToImage
from invcap.phrases import Phrases
from invcap.prompt_inversion.words import Contest, Ranking

KEPT = 0.25


@dataclass(frozen=True)
class SearchSettings:
    """How a prompt in words is searched.

    Attributes:
        budget: most evaluations of the denoiser, without gradient, for an image.
        draws: noise samples that the best are measured on, a multiple of 8; most others are
            dropped after an eighth of them.
        nearest: sentences of the bank, nearest to the embedding, that are measured first.
        starts: how many of the likeliest of these the parts are replaced in.
        alternatives: most replacements for all parts that begin at one word.
        least_noise: share of the schedule's steps, the least noisy ones, that are left out: most
            of the noise in differences between prompts is theirs.
    """

    budget: int = 8192
    draws: int = 32
    nearest: int = 64
    starts: int = 1
    alternatives: int = 16
    least_noise: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "budget", "nearest", "starts", "alternatives")
        check_fraction(self, "least_noise", one=False)
        if self.draws < 8 or self.draws % 8:
            raise ValueError(f"draws must be a multiple of 8, got {self.draws}")


def search(
    model: FrozenTextToImage,
    latents: Tensor,
    prompts: Sequence[str],
    others: Sequence[str],
    phrases: Phrases,
    settings: SearchSettings,
    seed: int = 0,
) -> Ranking:
    """Searches for the prompt of the highest log p(latents | prompt) + log p(prompt).

    The first is the bound, on the same noise samples; the second is that of the words' sequence in
    the bank: without it, of prompts that mean the same to the model long and odd ones would win.

    Some prompts are compared by successive halving. In the best of them each part is replaced by
    what may stand there, the likeliest replacement is kept, and so on through the sentence, until
    no part of it can be replaced by a likelier one: coordinate ascent.

    Args:
        latents: (C, h, w), of the image.
        prompts: at least one, the more expected ones first.
        others: prompts that parts are not replaced in, such as clauses.
        phrases: what may stand where.
        seed: of the noise samples, which all prompts share.

    Returns:
        The likeliest prompt, and what all took, at most the budget.
    """
    steps = len(model.schedule)
    levels = (int(settings.least_noise * steps), steps)
    generator = torch.Generator().manual_seed(seed)
    contest = Contest(
        model,
        latents,
        settings.draws,
        generator,
        timestep_range=levels,
        budget=settings.budget,
        log_prior=phrases.log_probability,
    )
    begun = contest.halve(prompts, settings.starts, kept=KEPT)[: settings.starts]
    ended = [_ascend(contest, prompt, phrases, settings.alternatives) for prompt in begun]
    rivals = contest.halve(list(dict.fromkeys(others)), kept=KEPT)[:1]
    best, *rest = dict.fromkeys([*ended, *rivals, prompts[0]])
    for prompt in rest:
        best = prompt if contest.is_likelier(prompt, best) else best
    return Ranking([best], contest.evaluations)


def _ascend(contest: Contest, prompt: str, phrases: Phrases, alternatives: int) -> str:
    """Replaces one part after the other by the likeliest, until none is likelier."""
    best, unchanged, start = prompt, 0, 0
    while unchanged < len(best.split()):
        others = filter(contest.model.can_read, phrases.variations(best, start, alternatives))
        found = contest.halve([*others], kept=KEPT)
        likelier = bool(found) and contest.is_likelier(found[0], best)
        best, unchanged = (found[0], 0) if likelier else (best, unchanged + 1)
        start = (start + 1) % len(best.split())
    return best
