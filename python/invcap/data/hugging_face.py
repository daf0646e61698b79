"""Anything that Hugging Face `datasets` loads: from its Hub, from a folder, tar shards, streams.

Nothing of a data set is executed or unpickled: `datasets` (4 or later) runs no script of a data
set, and images are decoded here.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from invcap.data.example import Example, Examples, ExampleTable, Skipped, log_skipped
from invcap.data.images import find_inside, open_image
from invcap.data.rows import printable, usable_captions
from invcap.hashing import digest

logger = logging.getLogger(__name__)

# The first of these that fits any column; the numbered ones of a kind belong together.
CAPTION_NAMES = (
    r"(caption|sentence)s?(_?\d+|_raw)?",
    r"text(s|_?\d+)?",
    r"txt",
    r"(description|alt_text|label_text|prompt|title)s?",
)
IMAGE_NAMES = r"(image|picture|img|photo|jpg|jpeg|png|webp)(_?bytes)?"
SAVED_TO_DISK = ("state.json", "dataset_dict.json")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what."""

    image: str
    captions: tuple[str, ...]
    group: str | None

    def words(self) -> list[str]:
        """All but the images'."""
        return [*self.captions, *([self.group] if self.group else [])]

    def read(
        self, row: Mapping[str, Any], label: str
    ) -> tuple[tuple[str, ...], str, list[Skipped]]:
        """The captions and the group of a row, and what was wrong with it."""
        texts = [text for column in self.captions for text in _texts(row[column])]
        usable, skipped = usable_captions(label, texts)
        return usable, printable(str(row[self.group])) if self.group else label, skipped


class ExampleStream:
    """Examples of a stream, which is read anew at each iteration.

    Args:
        table: the stream; its images are not decoded.
        columns: of it.
        source: where it comes from.
    """

    def __init__(self, table: datasets.IterableDataset, columns: Columns, source: str) -> None:
        self._table, self._columns, self._source = table, columns, source

    def __iter__(self) -> Iterator[Example]:
        skipped: list[Skipped] = []
        for index, row in enumerate(self._table):
            label = str(row.get("__key__") or f"{self._source.rpartition('/')[2]}#{index}")
            usable, group, wrong = self._columns.read(row, label)
            skipped += wrong
            if usable:
                opener = partial(_open, row[self._columns.image], self._source)
                yield Example(label, usable, group, opener)
        log_skipped(skipped, logger)


def load_hugging_face(
    name: str,
    picture_column: str | None = None,
    caption_columns: str | Sequence[str] | None = None,
    group_column: str | None = None,
    config: str | None = None,
    streaming: bool = False,
) -> Examples:
    """Reads `NAME_OR_PATH` or `NAME_OR_PATH:SPLIT`.

    Args:
        name: a data set on the Hub (`OWNER/NAME`), a folder that `datasets` reads, a folder that
            `save_to_disk` wrote, or a parquet file. Without a split: the only one, or `train`.
        picture_column: by default the one column of images.
        caption_columns: by default those whose name says so, or else the only column of texts.
            Each holds a text or a list of texts.
        group_column: rows with the same value there are on one side of a split. By default `group`
            if there is such a column, else each row is its own group. A data set with one row
            for each caption needs it.
        config: which configuration of the data set, where it has several.
        streaming: read it as a stream, without downloading all of it first.

    Raises:
        ValueError: `datasets` cannot load it, or a column is not found.
    """
    path, _, split = name.partition(":")
    # A bare name may be a loader of `datasets` itself, which would read the working directory.
    if path and Path(path).exists():
        path = str(Path(path).absolute())
    elif "/" not in path:
        raise ValueError(f"hf: expected OWNER/NAME or a path, got {path!r}, which does not exist")
    table = _load(path, split, config, streaming)
    columns = _columns(table, picture_column, caption_columns, group_column)
    undecoded = _undecoded(table, columns.image)
    if isinstance(undecoded, datasets.IterableDataset):
        return _stream(undecoded, columns, path, name, config or "")
    names, texts, groups, kept = [], [], [], []
    skipped: list[Skipped] = []
    for index, row in enumerate(table.select_columns(columns.words())):
        label = f"{path.rpartition('/')[2]}#{index}"
        usable, group, wrong = columns.read(row, label)
        skipped += wrong
        if usable:
            names.append(label)
            texts.append(usable)
            groups.append(group)
            kept.append(index)
    images = undecoded.select_columns([columns.image])

    def open_at(index: int) -> Image.Image:
        return _open(images[kept[index]][columns.image], path)

    identity = digest(table._fingerprint, str(columns))
    return Examples(ExampleTable(names, texts, groups, open_at), skipped, identity)


def load_tar_shards(
    pattern: str,
    picture_column: str | None = None,
    caption_columns: str | Sequence[str] | None = None,
    group_column: str | None = None,
) -> Examples:
    """Reads tar shards as WebDataset has them: files of one name, such as 0001.jpg and 0001.txt.

    Args:
        pattern: a path, or a shell pattern of paths, that ends in `.tar`.
        picture_column, caption_columns, group_column: see `load_hugging_face`; columns are the
            files' suffixes.

    Raises:
        ValueError: there is no such file, or a column is not found.
    """
    place = Path(pattern).expanduser()
    files = sorted(place.parent.glob(place.name))
    if not files:
        raise ValueError(f"{pattern}: no such file")
    try:
        table = datasets.load_dataset(
            "webdataset", data_files=[*map(str, files)], split="train", streaming=True
        )
        features = table.features
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{pattern}: datasets cannot load it: {error}") from error
    if features is None:
        raise ValueError(f"{pattern}: expected images and texts, found none")
    columns = _columns(table, picture_column, caption_columns, group_column)
    states = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return _stream(_undecoded(table, columns.image), columns, pattern, *states)


def _stream(
    table: datasets.IterableDataset, columns: Columns, source: str, *identity: str
) -> Examples:
    return Examples(ExampleStream(table, columns, source), identity=digest(*identity, str(columns)))


def _load(
    path: str, split: str, config: str | None, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    folder = Path(path)
    saved = any((folder / file).is_file() for file in SAVED_TO_DISK)
    try:
        if saved:
            loaded = datasets.load_from_disk(path)
        elif folder.is_file():
            loaded = datasets.load_dataset("parquet", data_files=path, streaming=streaming)
        else:
            loaded = datasets.load_dataset(path, config, split=split or None, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"hf:{path}: datasets cannot load it: {error}") from error
    if isinstance(loaded, datasets.Dataset | datasets.IterableDataset):
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


def _columns(
    table: datasets.Dataset | datasets.IterableDataset,
    picture_column: str | None,
    caption_columns: str | Sequence[str] | None,
    group_column: str | None,
) -> Columns:
    features = table.features
    image = picture_column or _image_column(features)
    captions = caption_columns or _caption_columns(features, image)
    captions = (captions,) if isinstance(captions, str) else tuple(captions)
    columns = Columns(image, captions, group_column or ("group" if "group" in features else None))
    for column in (image, *columns.words()):
        if column not in features:
            raise _columns_error(f"a column {column}", features)
    return columns


def _image_column(features: datasets.Features) -> str:
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) == 1:
        return images[0]
    named = [name for name in images or features if re.fullmatch(IMAGE_NAMES, name.lower())]
    if len(named) != 1:
        raise _columns_error("one column of pictures (or say which: picture_column=)", features)
    return named[0]


def _caption_columns(features: datasets.Features, image: str) -> list[str]:
    texts = [name for name, kind in features.items() if name != image and _holds_text(kind)]
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


def _undecoded(table: Any, image: str) -> Any:
    if isinstance(table.features[image], datasets.Image):
        return table.cast_column(image, datasets.Image(decode=False))
    return table


def _texts(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _open(value: Any, source: str) -> Image.Image:
    content, file = value, None
    if isinstance(value, dict):
        content, file = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        return open_image(io.BytesIO(content))
    if not isinstance(file, str):
        got = "none" if value is None else type(value).__name__
        raise OSError(f"no image: expected bytes or a path, got {got}")
    return open_image(_find_file(file, source))


def _find_file(file: str, source: str) -> Path:
    """An image that a data set refers to by name; only in its own folder or the cache."""
    home = Path(source).parent if Path(source).is_file() else source
    for root in (home, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE):
        folder = Path(root).absolute()
        if Path(file).is_relative_to(folder):
            return find_inside(folder.resolve(), str(Path(file).relative_to(folder)))
    raise OSError(f"points outside the data set: {file}")
