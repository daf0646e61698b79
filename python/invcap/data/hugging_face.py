"""Anything that Hugging Face `datasets` loads: from its Hub, from a folder, or saved to disk.

Nothing of a data set is executed or unpickled: `datasets` (4 or later) runs no script of a data
set, and pictures are decoded here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from invcap.data.example import Example, Examples
from invcap.data.pictures import find_inside, open_picture
from invcap.data.rows import printable, usable_captions

# The first of these that fits any column; the numbered ones of a kind belong together.
CAPTION_NAMES = (
    r"(caption|sentence)s?(_?\d+|_raw)?",
    r"text(s|_?\d+)?",
    r"(description|alt_text|label_text|prompt|title)s?",
)
PICTURE_NAMES = r"(image|picture|img|photo|jpg|jpeg|png|webp)(_?bytes)?"
SAVED_TO_DISK = ("state.json", "dataset_dict.json")


def load_hugging_face(
    name: str,
    picture_column: str | None = None,
    caption_columns: str | Sequence[str] | None = None,
    group_column: str | None = None,
    config: str | None = None,
) -> Examples:
    """Reads `NAME_OR_PATH` or `NAME_OR_PATH:SPLIT`.

    Args:
        name: a data set on the Hub (`OWNER/NAME`), a folder that `datasets` reads, a folder that
            `save_to_disk` wrote, or a parquet file. Without a split: the only one, or `train`.
        picture_column: by default the one column of pictures.
        caption_columns: by default those whose name says so, or else the only column of texts.
            Each holds a text or a list of texts.
        group_column: rows with the same value there never straddle a split. By default `group`
            if there is such a column, else each row is its own group. A data set with one row
            for each caption needs it.
        config: which configuration of the data set, where it has several.

    Raises:
        ValueError: `datasets` cannot load it, or a column is not found.
    """
    path, _, split = name.partition(":")
    # A bare name may be a loader of `datasets` itself, which would read the working directory.
    if path and Path(path).exists():
        path = str(Path(path).absolute())
    elif "/" not in path:
        raise ValueError(f"hf: expected OWNER/NAME or a path, got {path!r}, which does not exist")
    table = _load(path, split, config)
    picture = picture_column or _picture_column(table.features)
    captions = caption_columns or _caption_columns(table.features, picture)
    captions = [captions] if isinstance(captions, str) else list(captions)
    group = group_column or ("group" if "group" in table.features else None)
    for column in (picture, *captions, *([group] if group else [])):
        if column not in table.features:
            raise _columns_error(f"a column {column}", table.features)

    pictures = _undecoded(table.select_columns([picture]), picture)
    words = table.select_columns([*captions, *([group] if group else [])])
    result = Examples()
    for index, row in enumerate(words):
        label = f"{path.rpartition('/')[2]}#{index}"
        texts = [text for column in captions for text in _texts(row[column])]
        usable, skipped = usable_captions(label, texts)
        result.skipped.extend(skipped)
        if usable:
            key = printable(str(row[group])) if group else label
            opener = partial(_open, pictures, index, picture, path)
            result.examples.append(Example(label, usable, key, opener))
    return result


def _load(path: str, split: str, config: str | None) -> datasets.Dataset:
    folder = Path(path)
    saved = any((folder / file).is_file() for file in SAVED_TO_DISK)
    try:
        if saved:
            loaded = datasets.load_from_disk(path)
        elif folder.is_file():
            loaded = datasets.load_dataset("parquet", data_files=path)
        else:
            loaded = datasets.load_dataset(path, config, split=split or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"hf:{path}: datasets cannot load it: {error}") from error
    if isinstance(loaded, datasets.Dataset):
        if split and saved:
            raise ValueError(f"hf:{path}: was saved without splits, got the split {split}")
        return loaded
    wanted = split or (next(iter(loaded)) if len(loaded) == 1 else "train")
    if wanted not in loaded:
        raise ValueError(
            f"hf:{path}: expected one of its splits ({', '.join(loaded)}), as in "
            f"hf:{path}:{next(iter(loaded))}, got {split or 'none'}"
        )
    return loaded[wanted]


def _picture_column(features: datasets.Features) -> str:
    pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(pictures) == 1:
        return pictures[0]
    named = [name for name in pictures or features if re.fullmatch(PICTURE_NAMES, name.lower())]
    if len(named) != 1:
        raise _columns_error("one column of pictures (or say which: picture_column=)", features)
    return named[0]


def _caption_columns(features: datasets.Features, picture: str) -> list[str]:
    texts = [name for name, kind in features.items() if name != picture and _holds_text(kind)]
    for pattern in CAPTION_NAMES:
        if named := [name for name in texts if re.fullmatch(pattern, name.lower())]:
            return named
    if len(texts) != 1:
        raise _columns_error("a column of captions (or say which: caption_columns=)", features)
    return texts


def _holds_text(feature: Any) -> bool:
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _holds_text(feature.feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _columns_error(expected: str, features: datasets.Features) -> ValueError:
    columns = ", ".join(f"{name} ({feature})" for name, feature in features.items())
    return ValueError(f"expected {expected}, got the columns {columns}")


def _undecoded(table: datasets.Dataset, picture: str) -> datasets.Dataset:
    if isinstance(table.features[picture], datasets.Image):
        return table.cast_column(picture, datasets.Image(decode=False))
    return table


def _texts(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _open(table: datasets.Dataset, index: int, column: str, source: str) -> Image.Image:
    value = table[index][column]
    content, file = value, None
    if isinstance(value, dict):
        content, file = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        return open_picture(io.BytesIO(content))
    if not isinstance(file, str):
        got = "none" if value is None else type(value).__name__
        raise OSError(f"no picture in {column}: expected bytes or a path, got {got}")
    return open_picture(_find_file(file, source))


def _find_file(file: str, source: str) -> Path:
    """A picture that a data set names instead of holding: only in its own folder or the cache."""
    home = Path(source).parent if Path(source).is_file() else source
    for root in (home, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE):
        folder = Path(root).absolute()
        if Path(file).is_relative_to(folder):
            return find_inside(folder.resolve(), str(Path(file).relative_to(folder)))
    raise OSError(f"points outside the data set: {file}")
