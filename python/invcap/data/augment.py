"""Slightly moved, turned, scaled and tinted copies of images, which keep their captions."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

SHIFT = 0.06  # of the picture's side
ANGLE = 0.12  # radians
ZOOM = 0.10
TINT = 0.08  # of the range of a channel


def augmented(pixels: np.ndarray, copies: int, seed: int) -> np.ndarray:
    """Returns images, (N, H, W, 3) bytes, each before its variants: (N, 1 + copies, H, W, 3).

    Images are never mirrored: "left" in a caption and letters would become wrong. Pixels from
    outside an image repeat its border.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()

    def draw(limit: float, *shape: int) -> torch.Tensor:
        return limit * (2 * torch.rand(len(pictures), *shape, generator=generator) - 1)

    variants = [torch.from_numpy(pixels)]
    for _ in range(copies):
        angle, zoom = draw(ANGLE), 1 + draw(ZOOM)
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        turn = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        affine = torch.cat([turn, 2 * draw(SHIFT, 2, 1)], 2)
        grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
        moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        tinted = moved * (1 + draw(TINT, 3, 1, 1)) + 255 * draw(TINT / 2, 3, 1, 1)
        variants.append(tinted.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.stack(variants, 1).numpy()
