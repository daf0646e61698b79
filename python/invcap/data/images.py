"""Opening image files: formats, transparency, orientation, and where they may lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageChops, ImageOps

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# Only plain raster formats: Pillow hands EPS, for one, to an external interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
ALMOST_WHITE = 250
ImageSource = Image.Image | str | Path


def images_in(folder: Path) -> Iterator[Path]:
    """The files in `folder` and below whose names say that they are images."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, with transparency composited onto white and 16-bit grey scaled to 8 bits."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def pad_to_square(picture: Image.Image, margin: int = 0) -> Image.Image:
    """An RGB image in the middle of a white square, `margin` pixels wider on each side."""
    side = max(picture.size) + 2 * margin
    square = Image.new("RGB", (side, side), "white")
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def trim(picture: Image.Image) -> Image.Image | None:
    """What an RGB image shows, without its white margins; None if it shows nothing."""
    red, green, blue = picture.split()
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    box = darkest.point(lambda value: 255 * (value < ALMOST_WHITE)).getbbox()
    return picture.crop(box) if box else None


def open_image(source: Path | IO[bytes]) -> Image.Image:
    """Decodes a file or a stream of bytes; of an animation, the first frame.

    Raises:
        OSError: it is not an image in one of `FORMATS`, or a broken one; the message names a file.
    """
    try:
        with Image.open(source, formats=FORMATS) as picture:
            return to_rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # Pillow's decoders raise anything for a malformed file
        file = f"{source}: " if isinstance(source, Path) else ""
        raise OSError(f"{file}cannot decode the image: {error}") from error


def as_images(images: ImageSource | Sequence[ImageSource]) -> list[Image.Image]:
    """One image or several, as RGB images in memory.

    Raises:
        ValueError: there is none.
        OSError: a file is not an image; the message names it.
    """
    images = [images] if isinstance(images, ImageSource) else list(images)
    if not images:
        raise ValueError("images must hold at least one image, got none")
    return [
        to_rgb(image) if isinstance(image, Image.Image) else open_image(Path(image))
        for image in images
    ]


def find_inside(root: Path, name: str) -> Path:
    """The file called `name` in `root` (a resolved folder), symbolic links followed.

    Raises:
        OSError: `name` leads out of `root`, or there is no such file.
    """
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and not Path(name).is_absolute()
        exists = inside and path.is_file()
    except (ValueError, RuntimeError) as error:  # a null character, a loop of links
        raise OSError(f"not a file name: {error}") from error
    if not inside:
        raise OSError(f"points outside the folder {root}")
    if not exists:
        raise FileNotFoundError(f"no such file in {root}")
    return path
