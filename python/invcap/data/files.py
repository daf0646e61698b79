"""Captioned images on disk: which format a folder or file is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from invcap.data.coco import read_coco
from invcap.data.example import Examples, Skipped
from invcap.data.flickr30k import read_results_csv, read_token
from invcap.data.metadata import read_metadata_csv, read_metadata_jsonl
from invcap.data.rows import Row, examples_in_folder, find_images
from invcap.data.text_beside import has_text_beside, read_text_beside


@dataclass(frozen=True)
class Format:
    """An annotation file, known by its name.

    Attributes:
        file: what such a file is called, as a shell pattern.
        in_folder: where a folder has it, as shell patterns.
        read: gives its rows.
        beside: whether its names are relative to the folder that it lies in; if not, the folder
            with the images is searched for.
    """

    file: str
    in_folder: tuple[str, ...]
    read: Callable[[Path], Iterator[Row | Skipped]]
    beside: bool


# In this order; a folder with none of them is then tried as one with text files beside images.
FORMATS = (
    Format("*.jsonl", ("metadata.jsonl",), read_metadata_jsonl, beside=True),
    Format("results.csv", ("results.csv", "*/results.csv"), read_results_csv, beside=False),
    Format("*.csv", ("metadata.csv",), read_metadata_csv, beside=True),
    Format("*.token", ("*.token", "*/*.token"), read_token, beside=False),
    Format("*.json", (), read_coco, beside=False),
)

UNDERSTOOD = (
    "a folder with metadata.jsonl or metadata.csv (file_name, text), or such a file",
    "a folder with Flickr30k's results.csv or *.token, or such a file",
    "a JSON file with COCO captions (images, annotations)",
    "a folder with a text file beside each picture (dog.jpg, dog.txt)",
)


def load_files(source: Path, pictures: Path | None = None) -> Examples | None:
    """Reads a folder or an annotation file; None if it is in no format that is understood.

    Args:
        source: a folder with an annotation file or with text files beside its images, or the
            annotation file itself.
        pictures: the folder with the images, where it is not beside the annotations.

    Raises:
        ValueError: a folder has two annotation files of one kind, an annotation file is not what
            its name says, or its images are not found.
    """
    if pictures is not None and not pictures.is_dir():
        raise ValueError(f"pictures: expected a folder, got {pictures}")
    if found := _find_annotations(source):
        annotations, file = found
        rows = list(annotations.read(file))
        return examples_in_folder(rows, pictures or _image_folder(annotations, file, rows))
    if source.is_dir() and has_text_beside(source):
        return examples_in_folder(read_text_beside(source), source)
    return None


def _find_annotations(source: Path) -> tuple[Format, Path] | None:
    if source.is_file():
        return next(((kind, source) for kind in FORMATS if fnmatch(source.name, kind.file)), None)
    for kind in FORMATS:
        for pattern in kind.in_folder:
            files = sorted(path for path in source.glob(pattern) if path.is_file())
            if len(files) > 1:
                names = ", ".join(path.relative_to(source).as_posix() for path in files)
                raise ValueError(f"{source}: expected one {pattern}, got {names}; name the file")
            if files:
                return kind, files[0]
    return None


def _image_folder(kind: Format, file: Path, rows: list[Row | Skipped]) -> Path:
    names = {row.name for row in rows if isinstance(row, Row)}
    return file.parent if kind.beside or not names else find_images(file, names)
