"""How well a pipeline draws what it is asked for."""

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
    """Generates an image for each scene, in one of the wordings in turn: (N, H, W, 3) bytes."""
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
    """Judges images by the nearest rendered one, in squared distance of pixels.

    Args:
        images: (N, H, W, 3) bytes.
        asked: the N scenes that they should show.
        pixels: (M, H, W, 3) bytes, all scenes rendered.
        scenes: those M scenes.

    Returns:
        For each factor, the share of images whose nearest scene has it as asked.
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
