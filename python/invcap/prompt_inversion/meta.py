"""The meta start: one prompt, learned on many images, from which few steps suffice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from invcap.checks import check_at_least
from invcap.data.shards import Rows
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.optimizer import maximize
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.state import State


@dataclass(frozen=True)
class MetaSettings:
    """How the meta start is learned.

    Attributes:
        rounds: rounds of Reptile.
        images: images inverted in each round.
        rate: the start moves by this fraction of the way to the mean of their embeddings in a
            round; it falls linearly to 0.
        inner: how the images are inverted.
        seed: seed of the choice of images and of their noise samples.
    """

    rounds: int = 60
    images: int = 16
    rate: float = 0.5
    inner: InversionSettings = field(
        default_factory=lambda: InversionSettings(
            steps=12, draws=2, bank=24, held_out=2, evaluate_every=12, learning_rate=0.1
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rounds", "images")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {self.rate}")


def reptile(
    model: FrozenTextToImage,
    latents: Rows,
    shape: tuple[int, int, int],
    start: Conditioning,
    settings: MetaSettings,
    done: int = 0,
    on_round: Callable[[int, Conditioning], None] = lambda done, start: None,
) -> Conditioning:
    """Moves a start towards the results of inversions of training images that begin with it.

    Args:
        model: the model.
        latents: (N, C h w), of the images.
        shape: (C, h, w).
        start: one prompt.
        settings: how it is learned.
        done: number of rounds done before; the samples of a round depend only on the seed and the
            round's number.
        on_round: called after each round with the number of rounds done and the start.

    Source: Nichol et al., "On first-order meta-learning algorithms" (2018), algorithm 2.
    """
    name = model.optimized
    for number in range(done, settings.rounds):
        generator = torch.Generator().manual_seed((settings.seed << 32) + number)
        chosen = torch.randint(len(latents), (settings.images,), generator=generator)
        seeds = torch.randint(2**62, (settings.images,), generator=generator).tolist()
        starts = start[[0] * settings.images]
        vectors, conditioning_of = parametrize(model, starts, "hidden_states")
        clean = latents[chosen].view(-1, *shape).to(model.device)
        objective = Objective(model, clean, conditioning_of, seeds, settings.inner)
        state = maximize(objective, State.start(vectors), settings.inner)
        rate = settings.rate * (1 - number / settings.rounds)
        rows = torch.arange(settings.images, device=state.vectors.device)
        found = conditioning_of(state.vectors, rows).tensors[name].mean(0, keepdim=True)
        start = start.replace(**{name: start.tensors[name].lerp(found, rate)})
        on_round(number + 1, start)
    return start
