"""Measures how often generated images show what their captions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from invcap.data.shapes import WORDINGS, Scene

AT_ONCE = 100


def draw_scenes(
    pipeline: StableDiffusionPipeline,
    scenes: Sequence[Scene],
    guidance_scale: float,
    steps: int,
    seed: int,
) -> np.ndarray:
    """Generates an image of each scene, with the wordings in turn, as bytes, (N, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    captions = [scene.caption(i % len(WORDINGS)) for i, scene in enumerate(scenes)]
    drawn = [
        pipeline(
            captions[start : start + AT_ONCE],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            generator=generator,
            output_type="np",
        ).images
        for start in range(0, len(captions), AT_ONCE)
    ]
    return (np.concatenate(drawn) * 255).round().astype(np.uint8)


def accuracies(
    images: np.ndarray, asked: Sequence[Scene], pixels: np.ndarray, scenes: Sequence[Scene]
) -> dict[str, float]:
    """Compares images with what was asked for, by the rendered image with the nearest pixels.

    Args:
        images: bytes, (N, H, W, 3).
        asked: the N scenes that they should show.
        pixels: rendered images of all scenes, bytes, (M, H, W, 3).
        scenes: these M scenes.

    Returns:
        For each factor, the share of images whose nearest scene has the value asked for.
    """
    queries = torch.from_numpy(images).flatten(1).float()
    targets = torch.from_numpy(pixels).flatten(1).float()
    nearest = [torch.cdist(some, targets).argmin(1) for some in queries.split(AT_ONCE)]
    seen = [asdict(scenes[i]) for i in torch.cat(nearest).tolist()]
    wanted = [asdict(scene) for scene in asked]
    return {
        factor: float(np.mean([s[factor] == w[factor] for s, w in zip(seen, wanted, strict=True)]))
        for factor in wanted[0]
    }
