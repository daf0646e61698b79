"""The likeliest prompt in words, searched among all that a bank's vocabulary can say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invcap.checks import check_at_least, check_fraction
from invcap.diffusion.model import FrozenTextToImage
from invcap.phrases import Edit, Phrases, edited
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
    what may stand there, the likelier replacements are kept, and so on, until no part can be
    replaced by a likelier one: coordinate ascent.

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
    """Edits a prompt until no edit makes it likelier.

    Of the edits that begin at each word the likeliest is found; then all that make the prompt
    likelier are made, the best first, where they still do.
    """
    best = prompt
    while True:
        sentence, gains = best, {}
        for start in range(len(sentence.split()) + 1):
            edits = {
                edited(sentence, [edit]): edit
                for edit in phrases.edits(sentence, start, alternatives)
            }
            readable = list(filter(contest.model.can_read, edits))
            for found in contest.halve(readable, kept=KEPT)[:1]:
                if contest.is_likelier(found, sentence):
                    (gains[edits[found]],) = contest.measure([found], contest.ends[-1]).tolist()
        made: list[Edit] = []
        for edit in sorted(gains, key=gains.__getitem__, reverse=True):
            together = edited(sentence, [*made, edit])
            if not any(map(edit.overlaps, made)) and contest.model.can_read(together):
                contest.halve([together])
                if contest.is_likelier(together, best):
                    best, made = together, [*made, edit]
        if not made:
            return best
