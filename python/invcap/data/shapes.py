"""The embedded data: one coloured shape on a coloured background, drawn on the fly.

Every combination of the factors below is one picture; a shape never has its background's colour.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from math import cos, pi, sin
from pathlib import Path

from PIL import Image, ImageDraw

from invcap.data.example import Examples, ExampleTable
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


def load_shapes(wordings: int = 1) -> Examples:
    """Returns one example per scene, captioned in the first `wordings` of `WORDINGS`.

    Raises:
        ValueError: there are not so many wordings.
    """
    if not 1 <= wordings <= len(WORDINGS):
        raise ValueError(f"wordings must be from 1 to {len(WORDINGS)}, got {wordings}")
    every = list(scenes())
    groups = ["-".join(astuple(scene)) for scene in every]
    examples = ExampleTable(
        [group.replace(" ", "_") for group in groups],
        [[scene.caption(wording) for wording in range(wordings)] for scene in every],
        groups,
        lambda index: draw(every[index]),
    )
    identity = digest(Path(__file__).read_text(encoding="utf-8"), str(wordings))
    return Examples(examples, identity=identity)


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """Draws a scene, anti-aliased, as an RGB picture of side x side pixels."""
    canvas = side * OVERSAMPLING
    picture = Image.new("RGB", (canvas, canvas), COLOURS[scene.background])
    mask = Image.new("L", picture.size, 0)
    x, y = (canvas * coordinate for coordinate in PLACES[scene.place])
    _draw_mask(ImageDraw.Draw(mask), scene.shape, x, y, canvas * SIZES[scene.size])
    picture.paste(COLOURS[scene.colour], mask=mask)
    return picture.reduce(OVERSAMPLING)


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
