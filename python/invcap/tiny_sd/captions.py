"""The captions that tiny-sd is trained on: complete, partial and empty descriptions of scenes."""

from __future__ import annotations

from dataclasses import asdict

import torch

from invcap.data.shapes import WORDINGS, Scene

# Partial descriptions; factors that they do not name follow the distribution of the data.
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
EMPTY_SHARE = 0.1  # for classifier-free guidance


def draw_wording(generator: torch.Generator) -> str:
    """Draws a template of captions, with names of factors in braces; it may be partial or empty."""
    kind, which = torch.rand(2, generator=generator).tolist()
    if kind < EMPTY_SHARE:
        return ""
    wordings = OPEN_WORDINGS if kind < EMPTY_SHARE + OPEN_SHARE else WORDINGS
    return wordings[int(which * len(wordings))]


def draw_caption(scene: Scene, generator: torch.Generator) -> str:
    """Describes a scene by a template drawn at random: completely, in part or not at all."""
    return draw_wording(generator).format(**asdict(scene))
