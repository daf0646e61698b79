"""Refines drawn latents so that their images are captioned as the sentences asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invcap.encoders.interface import Differentiable, ImageEncoder

RATE = 0.2
STAY = 0.5
AT_ONCE = 256
Map = Callable[[Tensor], Tensor]


def refinement(encoder: ImageEncoder, steps: int | None) -> tuple[Map, int]:
    """The latents of what an encoder draws, with a gradient, and how many steps to refine.

    Args:
        steps: None for the encoder's own number.

    Raises:
        ValueError: there are steps, but no gradient goes through the encoder.
    """
    if isinstance(encoder, Differentiable):
        steps = encoder.refine_steps if steps is None else steps
        if steps >= 0:
            return encoder.project, steps
    elif not steps:
        return lambda latents: latents, 0
    raise ValueError(
        f"refine_steps must be 0, or above where the image encoder has a gradient, got {steps}"
    )


@torch.enable_grad()
def refine(x: Tensor, e: Tensor, caption: Map, steps: int) -> Tensor:
    """Descends |caption(x) - e|^2 + `STAY` |x - x_0|^2 from latents x_0, each by itself.

    A learned inverse predicts about the mean of all images of a sentence, which loses small
    details. The forward direction distinguishes them, and its gradient restores them.

    Args:
        x: (N, n) standardized.
        e: (N, k) coordinates of captions.
        caption: differentiable, from latents to (N, k).
        steps: steps of Adam, with a learning rate that falls linearly from `RATE`.

    Returns:
        (N, n).
    """
    if not steps:
        return x
    return torch.cat(
        [
            _refine(rows, wanted, caption, steps)
            for rows, wanted in zip(x.split(AT_ONCE), e.split(AT_ONCE), strict=True)
        ]
    )


def _refine(x: Tensor, e: Tensor, caption: Map, steps: int) -> Tensor:
    moved = x.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], RATE, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.zero_grad()
        error, away = caption(moved) - e, moved - x.detach()
        (error.square().sum() + STAY * away.square().sum()).backward()
        optimizer.step()
    return moved.detach()
