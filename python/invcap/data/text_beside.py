"""A folder with one text file beside each image: `dog.jpg` and `dog.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from invcap.data.example import Skipped
from invcap.data.images import find_inside, images_in
from invcap.data.rows import Row


def has_text_beside(folder: Path) -> bool:
    """Whether any image in `folder` or below has its text file."""
    return any(path.with_suffix(".txt").is_file() for path in images_in(folder))


def read_text_beside(folder: Path) -> Iterator[Row | Skipped]:
    """Every image in `folder` and below; its text file holds one caption a line."""
    root = folder.resolve()
    used: set[Path] = set()
    for path in sorted(images_in(folder)):
        name = path.relative_to(folder).as_posix()
        text = path.with_suffix(".txt")
        used.add(text)
        try:
            file = find_inside(root, str(text.relative_to(folder)))
            content = file.read_text(encoding="utf-8-sig", errors="replace")
        except OSError as error:
            yield Skipped(name, f"no caption in {text.name}: {error}")
        else:
            yield Row(name, tuple(line for line in content.splitlines() if line.strip()))
    for text in sorted(set(folder.rglob("*.txt")) - used):
        yield Skipped(text.relative_to(folder).as_posix(), "no picture beside it")
