"""Two other objectives: one prompt for several images, and the least likely (negative) prompt."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from invcap.diffusion.conditioning import Conditioning
from invcap.prompt_inversion.objective import Maximized, Objective
from invcap.prompt_inversion.output import PromptInversionOutput
from invcap.prompt_inversion.starts import Start


class Together:
    """The mean of P images' bounds as a function of one prompt; the state has one row.

    Args:
        objective: the bounds of the images, each with its own noise samples.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.images = len(objective.latents)

    def gradient(self, vectors: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The mean gradient (1, N, d) and the mean bound (1,)."""
        every = self._every(vectors)
        gradient, bound = self.objective.gradient(vectors[[0] * self.images], every, step)
        return gradient.mean(0, keepdim=True), bound.mean(0, keepdim=True)

    def held_out_terms(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The mean over images of their terms, (1, M); sample m of each has the same stratum."""
        every = self._every(vectors)
        return self.objective.held_out_terms(vectors[[0] * self.images], every).mean(0, True)

    def _every(self, vectors: Tensor) -> Tensor:
        return torch.arange(self.images, device=vectors.device)


class Negative:
    """An objective with its sign changed: maximizing it makes images least likely."""

    def __init__(self, objective: Maximized) -> None:
        self.objective = objective
        self.images = objective.images

    def gradient(self, vectors: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The gradients and bounds, both with their sign changed."""
        gradient, bound = self.objective.gradient(vectors, rows, step)
        return -gradient, -bound

    def held_out_terms(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The terms, with their sign changed."""
        return -self.objective.held_out_terms(vectors, rows)


def with_bounds_negated(output: PromptInversionOutput) -> PromptInversionOutput:
    """Changes the signs in an output of `Negative` back, so that it has the bounds themselves."""
    output.log_likelihood = -output.log_likelihood
    output.histories = [
        replace(
            history,
            training=[-bound for bound in history.training],
            held_out=[-bound for bound in history.held_out],
        )
        for history in output.histories
    ]
    return output


def check_joint(start: Start, words: bool, together: bool, negative: bool) -> None:
    """Raises ValueError if `together` or `negative` cannot be combined with a start or words."""
    if words and (together or negative):
        asked = "together" if together else "negative"
        raise ValueError(f"words are found for each image by itself, got {asked} too")
    if not together:
        return
    if isinstance(start, Conditioning):
        one = len(start) == 1
    elif isinstance(start, Tensor):
        one = start.ndim == 2 or len(start) == 1
    else:
        one = isinstance(start, str) and start not in ("caption", "amortised")
    if not one:
        raise ValueError("start must be one sentence or embedding for all images together")
