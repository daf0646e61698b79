"""Prompts in words for the embeddings that an inversion found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import standard_error
from invcap.prompt_inversion.bank import SentenceBank
from invcap.prompt_inversion.objective import Objective, bound_terms
from invcap.prompt_inversion.output import PromptInversionOutput
from invcap.prompt_inversion.search import SearchSettings, search
from invcap.prompt_inversion.tokens import read_vectors
from invcap.prompt_inversion.words import Captioner, Ranking, rank

PROPOSALS = 64


@dataclass(frozen=True)
class WordSearch:
    """Candidates for prompts in words, beside an inversion's start and its captions.

    Attributes:
        bank: sentences, whose phrases are also combined in a search.
        proposer: another source of captions, such as a `Proposer`.
        settings: settings of the search in the bank.
    """

    bank: SentenceBank | None = None
    proposer: Captioner | None = None
    settings: SearchSettings = field(default_factory=SearchSettings)

    @property
    def has_sentences(self) -> bool:
        """Whether there is a bank or a proposer."""
        return self.bank is not None or self.proposer is not None

    @torch.no_grad()
    def add_prompts(
        self,
        output: PromptInversionOutput,
        model: FrozenTextToImage,
        objective: Objective,
        images: Sequence[Image.Image],
        begun: list[str] | Conditioning,
        captions: Sequence[Sequence[str]],
        seeds: Sequence[int],
    ) -> None:
        """Adds the likeliest prompt of each image, with its held-out bound, to an output.

        Args:
            output: the inversion's output, which is changed.
            model: the model.
            objective: the objective of the inversion.
            images: the images.
            begun: the initial prompts of the inversion.
            captions: the captions of each image; empty without a captioner.
            seeds: seeds of the noise samples, one for each image.
        """
        output.prompts, output.prompt_evaluations = [], []
        proposals = self.proposals(images)
        for index, latents in enumerate(objective.latents):
            candidates = [*(captions[index] if captions else []), *proposals[index]]
            others = []
            if not isinstance(begun, Conditioning):
                others.append(begun[index])
            if output.token_vectors is not None:
                others += read_vectors(model, output.token_vectors[index : index + 1])
            hidden = output.prompt_embeds[index]
            found = self.find(model, latents, hidden, candidates, others, seeds[index])
            output.prompts.append(found.prompts[0])
            output.prompt_evaluations.append(found.evaluations)
            output.unet_evaluations[index] += found.evaluations
            output.unet_evaluations[index] += objective.held_out.steps.shape[1]
        conditioning = model.encode_prompts(output.prompts)
        terms = bound_terms(model, objective.latents, conditioning, objective.held_out).cpu()
        output.prompt_log_likelihood = terms.mean(1)
        output.prompt_standard_error = standard_error(terms)

    def proposals(self, images: Sequence[Image.Image]) -> list[list[str]]:
        """The proposer's captions of each image, best first."""
        if self.proposer is None:
            return [[] for _ in images]
        said = self.proposer.compose(images, PROPOSALS)
        return [[caption.text for caption in captions] for captions in said]

    def find(
        self,
        model: FrozenTextToImage,
        latents: Tensor,
        hidden: Tensor,
        prompts: Sequence[str],
        others: Sequence[str],
        seed: int,
    ) -> Ranking:
        """Finds the likeliest prompt for an image.

        Args:
            model: the model.
            latents: (C, h, w), of the image.
            hidden: the hidden states that were found for it.
            prompts: captions, best first.
            others: the initial prompt, and the nearest words to optimized token vectors.
            seed: seed of the noise samples.
        """
        if self.bank is None:
            every = list(dict.fromkeys([*prompts, *others]))
            readable = list(filter(model.can_read, every)) or [_shortened(model, every[0])]
            return rank(model, latents, readable, seed=seed)
        near, clauses = self.bank.nearest(hidden, self.settings.nearest)
        begun, rest = filter(model.can_read, prompts), filter(model.can_read, others)
        return search(
            model,
            latents,
            list(dict.fromkeys([*begun, *near])),
            [*rest, *clauses],
            self.bank.phrases,
            self.settings,
            seed,
        )


def _shortened(model: FrozenTextToImage, prompt: str) -> str:
    """The first words of a prompt, as many as the model can read."""
    words = prompt.split()
    while len(words) > 1 and not model.can_read(" ".join(words)):
        words.pop()
    return " ".join(words)
