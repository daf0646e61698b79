"""Search for the likeliest prompt among sentences made of a bank's phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from invcap.checks import check_at_least, check_fraction
from invcap.diffusion.model import FrozenTextToImage
from invcap.phrases import Edit, Phrases, compositions, edited
from invcap.prompt_inversion.words import Contest, Ranking

KEPT = 0.25
PAIRED = 3  # edits at a word that are tried together with those at others


@dataclass(frozen=True)
class SearchSettings:
    """How a prompt in words is searched.

    Attributes:
        budget: the largest number of denoiser evaluations, without gradient, for an image.
        draws: noise samples for the best prompts, a multiple of 8; most others are dropped after an
            eighth of them.
        nearest: number of sentences of the bank, nearest to the embedding, that are measured first.
        crossed: how many of the likeliest of these give parts to each other.
        starts: how many of the likeliest then are edited further.
        alternatives: the largest number of edits that begin at one word.
        least_noise: fraction of the schedule's steps, the least noisy ones, that are left out: they
            cause most of the variance of differences between prompts.
    """

    budget: int = 8192
    draws: int = 32
    nearest: int = 256
    crossed: int = 8
    starts: int = 1
    alternatives: int = 16
    least_noise: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(self, 1, "budget", "nearest", "crossed", "starts", "alternatives")
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
    """Searches for the prompt with the highest log p(latents | prompt) + log p(prompt).

    The first term is the bound, on shared noise samples. The second is a language model of the
    bank's word sequences; without it, long and odd prompts win over plain ones of the same effect.

    Prompts are compared by successive halving. The best are then improved by coordinate ascent:
    phrases are replaced by others of the bank as long as that makes the prompt likelier.

    Args:
        model: the model.
        latents: (C, h, w), of the image.
        prompts: at least one, the most expected first.
        others: further candidates that are not edited, such as clauses.
        phrases: which phrases can replace each other.
        settings: how to search.
        seed: seed of the noise samples, which all prompts share.

    Returns:
        The likeliest prompt, and the number of evaluations, at most the budget.
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
    found = contest.halve(prompts, settings.crossed, kept=KEPT)[: settings.crossed]
    crossed = filter(model.can_read, dict.fromkeys([*found, *compositions(found, found)]))
    begun = contest.halve(list(crossed), settings.starts, kept=KEPT)[: settings.starts]
    ended = [_ascend(contest, prompt, phrases, settings.alternatives) for prompt in begun]
    rivals = contest.halve(list(dict.fromkeys(others)), kept=KEPT)[:1]
    best, *rest = dict.fromkeys([*ended, *rivals, prompts[0]])
    for prompt in rest:
        best = prompt if contest.is_likelier(prompt, best) else best
    return Ranking([best], contest.evaluations)


def _ascend(contest: Contest, prompt: str, phrases: Phrases, alternatives: int) -> str:
    """Edits a prompt until no edit, and no pair of promising ones, makes it likelier.

    In each round, the best edits at each word are found. Those that make the prompt likelier are
    then applied, the best first, each only if it still helps together with those before. Where none
    does, two may help together, as a shape and its place do.
    """
    best = prompt
    while True:
        sentence, gains, promising = best, {}, []
        for start in range(len(sentence.split()) + 1):
            edits = {
                edited(sentence, [edit]): edit
                for edit in phrases.edits(sentence, start, alternatives)
            }
            readable = list(filter(contest.model.can_read, edits))
            found = contest.halve(readable, kept=KEPT)[:PAIRED]
            promising += [edits[text] for text in found]
            if found and contest.is_likelier(found[0], sentence):
                (gains[edits[found[0]]],) = contest.measure(found[:1], contest.ends[-1]).tolist()
        made: list[Edit] = []
        for edit in sorted(gains, key=gains.__getitem__, reverse=True):
            together = edited(sentence, [*made, edit])
            if not any(map(edit.overlaps, made)) and contest.model.can_read(together):
                contest.halve([together])
                if contest.is_likelier(together, best):
                    best, made = together, [*made, edit]
        if not made:
            pairs = (pair for pair in combinations(promising, 2) if not pair[0].overlaps(pair[1]))
            both = dict.fromkeys(edited(sentence, pair) for pair in pairs)
            found = contest.halve(list(filter(contest.model.can_read, both)), kept=KEPT)[:1]
            if not found or not contest.is_likelier(found[0], sentence):
                return best
            best = found[0]
