"""Images encoded into shards on disk: a few at a time are decoded, never all at once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from PIL import Image

from invcap.data.augment import augmented
from invcap.data.decode import decode_images
from invcap.data.example import Example, Examples, Skipped, listing, log_skipped
from invcap.data.settings import DataSettings
from invcap.data.shards import ShardRows, numbers, read_column, read_metadata, write_shards
from invcap.data.split import is_held_out, split_by_group
from invcap.hashing import digest

logger = logging.getLogger(__name__)
PIXELS_AT_ONCE = 2**23

Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EncodedImages:
    """N images that could be decoded, in the order of their source, on disk.

    Attributes:
        shards: the files.
        width: n, numbers of an encoded image.
        variants: encoded versions of each image: the image, then moved and tinted copies.
    """

    shards: Sequence[Path]
    width: int
    variants: int

    @cached_property
    def names(self) -> list[str]:
        """Names of the images, for reports."""
        return read_column(self.shards, "name")

    @cached_property
    def captions(self) -> list[list[str]]:
        """Captions of each image."""
        return read_column(self.shards, "captions")

    @cached_property
    def held_out(self) -> np.ndarray:
        """Which images are held out, (N,) bool."""
        return np.array(read_column(self.shards, "held_out"), bool)

    def rows(self) -> ShardRows:
        """The encoded images, (N * variants, n), the variants of each one after the other."""
        return ShardRows(self.shards, "encoded", self.width)

    @property
    def identity(self) -> str:
        """Differs for other images, encoders or settings."""
        return self.shards[0].parent.name

    def pngs(self) -> dict[int, bytes]:
        """Held-out images by their numbers, as PNG at the size that was encoded."""
        every = read_column(self.shards, "png")
        return {number: png for number, png in enumerate(every) if png is not None}


def encode_images(
    source: Examples,
    settings: DataSettings,
    encode: Encode,
    width: int,
    encoder: str,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
    name: str = "images",
) -> EncodedImages:
    """Encodes all images of a source, or finds the result of an earlier run.

    Args:
        encode: images (K, H, W, 3), uint8, to rows (K, n).
        width: n.
        encoder: fingerprint of `encode`.
        cache: folder; each source, encoder and settings get a folder of their own in it.
        dtype: of the numbers on disk: `float32` or `float16`, or `uint8` for pixels.
        name: of the progress bar and the folder.

    Raises:
        ValueError: no image can be decoded.
    """
    kept = ("size", "held_out", "augment", "seed")
    facts = {field: getattr(settings, field) for field in kept} | {"dtype": dtype, "by": encoder}
    folder = cache / f"{name}-{digest(source.identity, json.dumps(facts))}"

    def table(part: Sequence[Example]) -> pa.Table:
        return _encode_part(part, settings, encode, dtype, width)

    shards = write_shards(source.examples, table, folder, accelerator, name)
    skipped = [
        Skipped(*item) for text in read_metadata(shards, "skipped") for item in json.loads(text)
    ]
    images = EncodedImages(shards, width, 1 + settings.augment)
    if not len(images.held_out):
        raise ValueError(
            f"{settings.data}: expected images, but none of {len(skipped)} can be decoded\n"
            f"{listing(skipped, 5)}".rstrip()
        )
    if accelerator.is_main_process:
        log_skipped(skipped, logger)
    return images


def _encode_part(
    part: Sequence[Example], settings: DataSettings, encode: Encode, dtype: str, width: int
) -> pa.Table:
    at_once = max(1, min(256, PIXELS_AT_ONCE // prod(settings.size)))
    width *= 1 + settings.augment
    encoded, kept, pngs = [], [], []
    skipped: list[Skipped] = []
    for first in range(0, len(part), at_once):
        pixels, examples, broken = decode_images(part[first : first + at_once], settings.size)
        skipped += broken
        if not examples:
            continue
        variants = augmented(pixels, settings.augment, settings.seed)
        flat = variants.reshape(-1, *pixels.shape[1:])
        rows = [encode(flat[at : at + at_once]) for at in range(0, len(flat), at_once)]
        encoded.append(np.concatenate(rows).reshape(len(pixels), -1).astype(dtype))
        kept += examples
        pngs += [
            _png(image) if held_out(example, settings) else None
            for image, example in zip(pixels, examples, strict=True)
        ]
    return pa.table(
        {
            "name": pa.array([example.name for example in kept], pa.string()),
            "captions": pa.array([list(e.captions) for e in kept], pa.list_(pa.string())),
            "held_out": pa.array([held_out(example, settings) for example in kept], pa.bool_()),
            "encoded": numbers(np.concatenate([np.empty((0, width), dtype), *encoded])),
            "png": pa.array(pngs, pa.binary()),
        }
    ).replace_schema_metadata({"skipped": json.dumps([(s.name, s.reason) for s in skipped])})


def held_out(example: Example, settings: DataSettings) -> bool:
    """Whether an example is held out."""
    return is_held_out(example.group, settings.held_out, settings.seed)


def training_pixels(
    source: Examples, settings: DataSettings, most: int, cache: Path, accelerator: Accelerator
) -> ShardRows:
    """At most so many training images and their variants, (N, H * W * 3) uint8, on disk.

    From a sequence they are taken evenly, from a stream the first ones.
    """
    facts = json.dumps([settings.size, settings.held_out, settings.augment, settings.seed, most])
    folder = cache / f"pixels-{digest(source.identity, facts)}"

    def table(part: Sequence[Example]) -> pa.Table:
        pixels, _, _ = decode_images(part, settings.size)
        variants = augmented(pixels, settings.augment, settings.seed)
        return pa.table({"pixels": numbers(variants.reshape(-1, pixels[0].size))})

    chosen = _training(source.examples, settings, most)
    return ShardRows(write_shards(chosen, table, folder, accelerator, "pixels"), "pixels")


def _training(
    examples: Sequence[Example] | Iterable[Example], settings: DataSettings, most: int
) -> Iterable[Example]:
    if not isinstance(examples, Sequence):
        return islice((e for e in examples if not held_out(e, settings)), most)
    train, _ = split_by_group(examples, settings.held_out, settings.seed)
    return [examples[index] for index in train[:: -(-len(train) // most)]]


def decode_png(png: bytes) -> np.ndarray:
    """The pixels of an image that `EncodedImages.pngs` gave, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
