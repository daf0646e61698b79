"""A start from which few steps suffice, learned over many pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invcap.prompt_inversion.inversion import Inversion, InversionSettings
from invcap.prompt_inversion.state import State

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline


@dataclass(frozen=True)
class MetaSettings:
    """How a start is learned.

    Attributes:
        rounds: of Reptile.
        pictures: inverted in each round.
        rate: share of the way to the mean of their embeddings that the start moves in a round; it
            falls linearly to 0.
        inner: how they are inverted.
        seed: of pictures and banks.
    """

    rounds: int = 60
    pictures: int = 16
    rate: float = 0.5
    inner: InversionSettings = field(
        default_factory=lambda: InversionSettings(
            steps=12, draws=2, bank=24, held_out=2, evaluate_every=12, learning_rate=0.1
        )
    )
    seed: int = 0


def reptile(
    pipeline: PromptInversionPipeline,
    latents: Tensor,
    start: Tensor,
    settings: MetaSettings,
    done: int = 0,
    on_round: Callable[[int, Tensor], None] = lambda done, start: None,
) -> Tensor:
    """Moves a start towards where the inversions of training pictures lead from it.

    Args:
        latents: (N, C, h, w), of the pictures.
        start: (77, d).
        done: rounds that the start has already had; the draws of a round depend on the seed and
            its number alone.
        on_round: called with rounds done and the start after each.

    Source: Nichol et al., "On first-order meta-learning algorithms" (2018), algorithm 2.
    """
    for number in range(done, settings.rounds):
        generator = torch.Generator().manual_seed((settings.seed << 32) + number)
        chosen = torch.randint(len(latents), (settings.pictures,), generator=generator)
        seeds = torch.randint(2**62, (settings.pictures,), generator=generator).tolist()
        starts = start.expand(settings.pictures, -1, -1)
        inversion = Inversion(
            pipeline, latents[chosen], starts, seeds, lambda vectors, rows: vectors, settings.inner
        )
        state = inversion.run(State.start(starts), lambda state: None)
        rate = settings.rate * (1 - number / settings.rounds)
        start = start.lerp(state.vectors.mean(0), rate)
        on_round(number + 1, start)
    return start
