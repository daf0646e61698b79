"""A folder of captioned images that is written whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FolderSummary:
    """What was written: a folder, how many images, in how many groups."""

    folder: Path
    pictures: int
    groups: int


@dataclass(frozen=True)
class Captioned:
    """One line of `metadata.jsonl`: an image's file, its captions (the first is its text), group.

    `file_name` is relative to the folder.
    """

    file_name: str
    captions: Sequence[str]
    group: str


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `output` when the block ends without an error.

    Raises:
        ValueError: `output` exists and is not an empty folder.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"output: expected a new or empty folder, got {output}, which has content")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        yield folder
        folder.rename(output)


def write_metadata(folder: Path, rows: Iterable[Captioned]) -> None:
    """Writes `metadata.jsonl`, which `load_examples` reads."""
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            line = {
                "file_name": row.file_name,
                "text": row.captions[0],
                "captions": row.captions,
                "group": row.group,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
