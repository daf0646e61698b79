"""Images of shapes in another style than `invcap.data.shapes`, as a user might draw them.

Shapes are formulas on a pixel grid, edges are soft, and colours and places differ a little from the
embedded data.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from invcap.data.shapes import COLOURS, Scene

RADII = {"small": 0.175, "medium": 0.24, "large": 0.285}
SOFTNESS = 0.02  # of the side: edges fade over twice that


def draw_by_hand(scene: Scene, side: int, seed: int) -> Image.Image:
    """Draws a scene as an RGB picture of side x side pixels, always the same for a seed."""
    numbers = np.random.default_rng(seed)
    across, down = (
        side_of(scene.place, *words) * 0.2 + numbers.uniform(-0.035, 0.035)
        for words in (("left", "right"), ("top", "bottom"))
    )
    grid = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(grid - across, grid - down)
    angle = np.radians(numbers.uniform(-5, 5))
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = RADII[scene.size] * numbers.uniform(0.96, 1.04)
    inside = radius * distance_inside(scene.shape, x / radius, y / radius)
    cover = np.clip(0.5 + inside / (2 * SOFTNESS), 0, 1)[..., None]
    ink, paper = (
        np.asarray(COLOURS[name]) + numbers.uniform(-12, 12, 3)
        for name in (scene.colour, scene.background)
    )
    pixels = cover * ink + (1 - cover) * paper
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def side_of(place: str, before: str, after: str) -> int:
    """-1 if a place names the one side, 1 if it names the other, else 0."""
    return (after in place) - (before in place)


def distance_inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """About how far points lie within the outline of a shape of radius 1; y grows downwards."""
    if shape == "square":
        return 0.88 - np.maximum(abs(x), abs(y))
    if shape == "circle":
        return 0.98 - np.hypot(x, y)
    if shape == "triangle":
        return np.minimum(0.85 - y, (0.97 + y - 1.9 * abs(x)) / np.hypot(1, 1.9))
    if shape == "diamond":
        return (1 - abs(x) / 0.76 - abs(y)) / np.hypot(1, 1 / 0.76)
    if shape == "cross":
        return np.maximum(
            np.minimum(0.97 - abs(x), 0.31 - abs(y)), np.minimum(0.97 - abs(y), 0.31 - abs(x))
        )
    if shape == "star":
        return star(x, y)
    if shape == "ring":
        return 0.24 - abs(np.hypot(x, y) - 0.74)
    if shape == "heart":
        return heart(x, y)
    raise ValueError(f"shape: expected one that is drawn here, got {shape!r}")


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five-pointed: in each fifth, mirrored, the line from the tip to the inner corner."""
    fifth = 2 * np.pi / 5
    turned = abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    along, beside = np.hypot(x, y) * np.cos(turned), np.hypot(x, y) * np.sin(turned)
    tip, corner = np.array([1.03, 0.0]), 0.43 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    edge = (corner - tip) / np.linalg.norm(corner - tip)
    return edge[1] * (tip[0] - along) + edge[0] * beside


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two discs over a wedge."""
    discs = 0.52 - np.hypot(abs(x) - 0.46, y + 0.36)
    wedge = np.minimum((0.98 - y - 1.12 * abs(x)) / np.hypot(1, 1.12), y + 0.14)
    return np.maximum(discs, wedge)
