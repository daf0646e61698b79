"""What tiny-sd is trained to understand: whole descriptions, and ones that leave things open."""

from __future__ import annotations

from dataclasses import asdict

import torch

from invcap.data.shapes import WORDINGS, Scene

# Not every prompt names all five factors; what it leaves open is drawn as the data has it.
OPEN_WORDINGS = (
    "a {colour} {shape} {place} of the image, {background} background",
    "a {size} {colour} {shape}, {background} background",
    "a {colour} {shape} on {background}",
    "a {size} {shape} {place}",
    "a {colour} {shape} {place}",
    "a {background} picture of a {shape}",
    "a {colour} {shape}",
    "a {shape}",
    "{background} background",
)
OPEN_SHARE = 0.25
EMPTY_SHARE = 0.1  # what classifier-free guidance needs


def draw_wording(generator: torch.Generator) -> str:
    """Draws what a caption says, with the names of factors in braces: all, a part, or nothing."""
    kind, which = torch.rand(2, generator=generator).tolist()
    if kind < EMPTY_SHARE:
        return ""
    wordings = OPEN_WORDINGS if kind < EMPTY_SHARE + OPEN_SHARE else WORDINGS
    return wordings[int(which * len(wordings))]


def draw_caption(scene: Scene, generator: torch.Generator) -> str:
    """Says a scene in words drawn at random: all of it, a part of it, or nothing."""
    return draw_wording(generator).format(**asdict(scene))
