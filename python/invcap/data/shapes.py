"""The embedded data: one coloured shape on a coloured background, drawn on the fly.

Every combination of the factors below is a scene; a shape never has its background's colour. Of a
scene there is one clean rendering, and any number of drawings beside that (`jitter_of`).
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from math import cos, pi, sin
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

from invcap.data.example import Examples, ExampleTable
from invcap.data.jitter import SCALE, Jitter, add_noise, random_jitter, shifted
from invcap.hashing import digest

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "red": (225, 25, 30),
    "orange": (255, 125, 0),
    "yellow": (255, 240, 40),
    "green": (20, 180, 60),
    "cyan": (60, 220, 230),
    "blue": (20, 50, 220),
    "purple": (120, 20, 150),
    "pink": (255, 110, 180),
}
SHAPES = ("square", "circle", "triangle", "diamond", "cross", "star", "ring", "heart")
SIZES = {"small": 0.18, "medium": 0.235, "large": 0.29}  # radius over the picture's side
PLACES = {  # centre over the picture's side
    "in the center": (0.5, 0.5),
    "at the top": (0.5, 0.29),
    "at the bottom": (0.5, 0.71),
    "on the left": (0.29, 0.5),
    "on the right": (0.71, 0.5),
    "in the top left corner": (0.29, 0.29),
    "in the top right corner": (0.71, 0.29),
    "in the bottom left corner": (0.29, 0.71),
    "in the bottom right corner": (0.71, 0.71),
}
WORDINGS = (
    "a {size} {colour} {shape} {place} of the image, {background} background",
    "{background} background with a {size} {colour} {shape} {place}",
    "there is a {colour} {shape}, {size}, {place} of a {background} picture",
    "a {background} image showing one {size} {shape} in {colour} {place}",
    "{place} of the {background} image, a {shape} that is {size} and {colour}",
)
SIDE = 32
OVERSAMPLING = 4
SOURCES = (Path(__file__), Path(__file__).with_name("jitter.py"))


@dataclass(frozen=True)
class Scene:
    """The factors of one picture, each by its name in the tables above."""

    size: str
    colour: str
    shape: str
    place: str
    background: str

    def caption(self, wording: int = 0) -> str:
        """Says the scene in one of `WORDINGS`."""
        return WORDINGS[wording].format(**self.__dict__)


def scenes() -> Iterator[Scene]:
    """Yields all 23,760 combinations, always in the same order."""
    for size, colour, shape, place, background in product(SIZES, COLOURS, SHAPES, PLACES, COLOURS):
        if colour != background:
            yield Scene(size, colour, shape, place, background)


def load_shapes(wordings: int = 1, drawings: int = 0) -> Examples:
    """Returns the examples of every scene, captioned in the first `wordings` of `WORDINGS`.

    Args:
        wordings: captions of each example.
        drawings: examples of each scene, each drawn with a jitter of its own (see `jitter_of`), in
            one group; 0 for one example, the clean rendering.

    Raises:
        ValueError: there are not so many wordings, or `drawings` is negative.
    """
    if not 1 <= wordings <= len(WORDINGS):
        raise ValueError(f"wordings must be from 1 to {len(WORDINGS)}, got {wordings}")
    if drawings < 0:
        raise ValueError(f"drawings must be at least 0, got {drawings}")
    every = list(scenes())
    copies = max(drawings, 1)
    groups = ["-".join(astuple(scene)) for scene in every for _ in range(copies)]
    names = [group.replace(" ", "_") for group in groups]
    if drawings:
        names = [f"{name}-{index % copies}" for index, name in enumerate(names)]

    def draw_at(index: int) -> Image.Image:
        scene, number = every[index // copies], index % copies
        return draw(scene, jitter=jitter_of(scene, number) if drawings else None)

    said = [[scene.caption(wording) for wording in range(wordings)] for scene in every]
    captions = [sentences for sentences in said for _ in range(copies)]
    code = (file.read_text(encoding="utf-8") for file in SOURCES)
    identity = digest(*code, str(wordings), str(drawings))
    return Examples(ExampleTable(names, captions, groups, draw_at), identity=identity)


def jitter_of(scene: Scene, number: int, seed: int = 0) -> Jitter:
    """The jitter of a scene's drawing with a number, always the same for a seed.

    The radius is within 10 % of its size's, and nearer to that than to any other size's, so that
    the caption names what is nearest. (10 % below `large` would be nearer to `medium`.)
    """
    key = crc32("-".join(astuple(scene)).encode())
    generator = np.random.default_rng((seed, key, number))
    return random_jitter(generator, scale_range(scene.size))


def scale_range(size: str) -> tuple[float, float]:
    """Within which factors a radius stays within 10 % and nearest to that of `size`."""
    radius = SIZES[size]
    middles = [(radius + other) / 2 / radius for other in SIZES.values() if other != radius]
    lowest = max([1 - SCALE, *(middle for middle in middles if middle < 1)])
    return lowest, min([1 + SCALE, *(middle for middle in middles if middle > 1)])


def draw(scene: Scene, side: int = SIDE, jitter: Jitter | None = None) -> Image.Image:
    """Draws a scene, anti-aliased, as an RGB picture of side x side pixels.

    Without `jitter` it is the clean rendering.
    """
    if jitter is None:
        mask = shape_mask(scene, side * OVERSAMPLING)
        return _paint(mask, COLOURS[scene.colour], COLOURS[scene.background]).reduce(OVERSAMPLING)
    mask = shape_mask(scene, side * jitter.oversampling, jitter.offset, jitter.scale, jitter.tilt)
    picture = _paint(
        mask.resize((side, side), jitter.resampling),
        shifted(COLOURS[scene.colour], jitter.colour),
        shifted(COLOURS[scene.background], jitter.background),
    )
    return add_noise(picture, jitter.noise_seed)


def shape_mask(
    scene: Scene,
    canvas: int,
    offset: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    tilt: float = 0.0,
) -> Image.Image:
    mask = Image.new("L", (canvas, canvas), 0)
    x, y = (
        canvas * (place + moved) for place, moved in zip(PLACES[scene.place], offset, strict=True)
    )
    _draw_mask(ImageDraw.Draw(mask), scene.shape, x, y, canvas * SIZES[scene.size] * scale)
    return mask.rotate(tilt, Image.Resampling.BILINEAR, center=(x, y)) if tilt else mask


def _paint(
    mask: Image.Image, colour: tuple[int, int, int], background: tuple[int, int, int]
) -> Image.Image:
    picture = Image.new("RGB", mask.size, background)
    picture.paste(colour, mask=mask)
    return picture


def _draw_mask(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float) -> None:
    def polygon(points: list[tuple[float, float]]) -> None:
        pen.polygon([(x + r * a, y + r * b) for a, b in points], fill=255)

    def box(left: float, top: float, right: float, bottom: float) -> list[float]:
        return [x + r * left, y + r * top, x + r * right - 1, y + r * bottom - 1]

    if shape == "square":
        pen.rectangle(box(-0.9, -0.9, 0.9, 0.9), fill=255)
    elif shape == "circle":
        pen.ellipse(box(-1, -1, 1, 1), fill=255)
    elif shape == "triangle":
        polygon([(0, -1), (1, 0.9), (-1, 0.9)])
    elif shape == "diamond":
        polygon([(0, -1), (0.75, 0), (0, 1), (-0.75, 0)])
    elif shape == "cross":
        pen.rectangle(box(-1, -0.33, 1, 0.33), fill=255)
        pen.rectangle(box(-0.33, -1, 0.33, 1), fill=255)
    elif shape == "star":
        radii = [1.05 if corner % 2 == 0 else 0.42 for corner in range(10)]
        polygon([(k * sin(i * pi / 5), -k * cos(i * pi / 5)) for i, k in enumerate(radii)])
    elif shape == "ring":
        pen.ellipse(box(-1, -1, 1, 1), fill=255)
        pen.ellipse(box(-0.5, -0.5, 0.5, 0.5), fill=0)
    elif shape == "heart":
        pen.ellipse(box(-1, -0.9, 0.05, 0.15), fill=255)
        pen.ellipse(box(-0.05, -0.9, 1, 0.15), fill=255)
        polygon([(-0.93, -0.12), (0.93, -0.12), (0, 1)])
