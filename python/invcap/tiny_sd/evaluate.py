"""Measures how often generated images show what their captions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL import Image

from invcap.data.recognize_shapes import recognize
from invcap.data.shapes import WORDINGS, Scene

AT_ONCE = 100


def draw_scenes(
    pipeline: Any, scenes: Sequence[Scene], guidance_scale: float, steps: int, seed: int
) -> list[Image.Image]:
    """Generates an image of each scene with a diffusers pipeline, with the wordings in turn."""
    generator = torch.Generator().manual_seed(seed)
    captions = [scene.caption(i % len(WORDINGS)) for i, scene in enumerate(scenes)]
    return [
        image
        for start in range(0, len(captions), AT_ONCE)
        for image in pipeline(
            captions[start : start + AT_ONCE],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=generator,
        ).images
    ]


def accuracies(images: Sequence[Image.Image], asked: Sequence[Scene]) -> dict[str, float]:
    """For each factor, the share of images in which it is recognized as asked for."""
    return shares(recognize(images), asked)


def shares(found: Sequence[Scene], asked: Sequence[Scene]) -> dict[str, float]:
    """For each factor, the share of scenes whose value is the one asked for."""
    pairs = [(asdict(one), asdict(other)) for one, other in zip(found, asked, strict=True)]
    return {
        factor: float(np.mean([one[factor] == other[factor] for one, other in pairs]))
        for factor in pairs[0][0]
    }
