"""COCO captions: one JSON object with `images` and `annotations` (Chen et al., 2015)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invcap.data.example import Skipped
from invcap.data.rows import Row


def read_coco(file: Path) -> Iterator[Row | Skipped]:
    """Joins `annotations` (`image_id`, `caption`) to `images` (`id`, `file_name`).

    Raises:
        ValueError: the file is not JSON, or lacks one of those two lists.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected COCO captions, got no JSON: {error}") from error
    images, annotations = _list_in(content, "images", file), _list_in(content, "annotations", file)

    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        match image:
            case {"id": int() | str() as key, "file_name": str(name)}:
                names[key] = name
                yield Row(name, ())
            case _:
                yield Skipped(f"images[{number}]", "expected an id and a file_name")
    for number, annotation in enumerate(annotations):
        match annotation:
            case {"image_id": int() | str() as key, "caption": caption} if key in names:
                yield Row(names[key], (caption,))
            case {"image_id": int() | str(), "caption": _}:
                reason = f"image_id {annotation['image_id']} is not in images"
                yield Skipped(f"annotations[{number}]", reason)
            case _:
                yield Skipped(f"annotations[{number}]", "expected an image_id and a caption")


def _list_in(content: Any, key: str, file: Path) -> list[Any]:
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list):
        raise ValueError(
            f"{file}: expected COCO captions, an object with the lists images and annotations; "
            f"{key} is {'missing' if value is None else type(value).__name__}"
        )
    return value
