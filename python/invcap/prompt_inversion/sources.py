"""The image files of a bulk inversion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from invcap.data import Skipped, log_skipped
from invcap.data.example import listing
from invcap.data.images import SUFFIXES, images_in, open_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An image file.

    Attributes:
        path: the file.
        name: its path relative to the folder where it was found, or its file name.
        found: whether it was found in a folder; false if it was named itself.
    """

    path: Path
    name: str
    found: bool

    @property
    def folder(self) -> Path:
        """The folder of its results, relative to the run's output."""
        return Path(self.name).with_suffix("")


def find_sources(path: Path, output: Path) -> list[Source]:
    """The image file at a path, or all in the folder at the path, sorted by path.

    Raises:
        ValueError: the folder has no image, or `output` lies in it: generated images there would
            be taken for input.
    """
    if not path.is_dir():
        return [Source(path, path.name, found=False)]
    if output.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{output}: must not be in {path}, the images' folder")
    sources = [
        Source(file, file.relative_to(path).as_posix(), found=True)
        for file in sorted(images_in(path))
        if not file.is_dir()
    ]
    if not sources:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{path}: expected images in the folder ({suffixes}), found none")
    return sources


def usable(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """The images that can be decoded, and a hash of each file; the others are logged.

    All are decoded here once, so that broken files are known before anything is computed. Pixels
    are not kept: a run's images need not fit into memory.

    Raises:
        ValueError: an image that was named itself cannot be decoded, or none can.
    """
    with ThreadPoolExecutor() as pool:
        checked = list(zip(sources, pool.map(examine, sources), strict=True))
    for source, content in checked:
        if isinstance(content, Skipped) and not source.found:
            raise ValueError(f"{source.path}: expected an image: {content.reason}")
    skipped = [content for _, content in checked if isinstance(content, Skipped)]
    if len(skipped) == len(sources):
        raise ValueError(
            f"expected images, but none of {len(sources)} can be decoded\n{listing(skipped, 5)}"
        )
    log_skipped(skipped, logger)
    kept = [(source, content) for source, content in checked if isinstance(content, str)]
    return [source for source, _ in kept], [content for _, content in kept]


def examine(source: Source) -> str | Skipped:
    """A hash of an image file, or why it cannot be decoded."""
    try:
        content = source.path.read_bytes()
        open_image(BytesIO(content))
    except OSError as error:
        return Skipped(str(source.path), str(error))
    return sha256(content).hexdigest()


def check_folders(sources: Sequence[Source]) -> None:
    """Raises ValueError unless every image has an output folder of its own."""
    taken: dict[Path, Source] = {}
    for source in sources:
        other = taken.setdefault(source.folder, source)
        if other is not source:
            raise ValueError(
                f"images must differ in name, got {other.path} and {source.path}, both for "
                f"{source.folder}"
            )
