"""From the rows of an annotation file to examples whose images lie in a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from invcap.data.example import Examples, ExampleTable, Skipped
from invcap.data.images import find_inside, open_image
from invcap.hashing import digest


@dataclass(frozen=True)
class Row:
    """What an annotation file says of one image; several rows may name the same one."""

    name: str
    captions: tuple[str, ...]
    group: str | None = None


def printable(text: str) -> str:
    """Stripped, and with unpaired surrogates (valid JSON, not valid UTF-8) as question marks."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def usable_captions(name: str, captions: Iterable[Any]) -> tuple[tuple[str, ...], list[Skipped]]:
    """The captions that say something, each once, in order; and what was wrong with the rest."""
    usable: dict[str, None] = {}
    skipped: list[Skipped] = []
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            reason = f"caption {number} is {type(caption).__name__}, expected text"
            skipped.append(Skipped(name, reason))
        elif not (text := printable(caption)):
            skipped.append(Skipped(name, f"caption {number} is empty"))
        else:
            usable[text] = None
    if not usable:
        skipped.append(Skipped(name, "no caption"))
    return tuple(usable), skipped


def examples_in_folder(rows: Iterable[Row | Skipped], folder: Path) -> Examples:
    """Joins the rows of each image and looks for its file in `folder`.

    Captions of one image may be spread over rows. An image with no usable caption or no file
    inside the folder is skipped.
    """
    skipped: list[Skipped] = []
    captions: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    for row in rows:
        if isinstance(row, Skipped):
            skipped.append(row)
            continue
        captions.setdefault(row.name, []).extend(row.captions)
        if row.group is not None:
            groups.setdefault(row.name, row.group)

    root = folder.resolve()
    names, texts, keys, paths, states = [], [], [], [], []
    for raw_name, raw_captions in captions.items():
        name = printable(raw_name)
        usable, unusable = usable_captions(name, raw_captions)
        skipped.extend(unusable)
        if not usable:
            continue
        try:
            path = find_inside(root, raw_name)
            state = path.stat()
        except OSError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        names.append(name)
        texts.append(usable)
        keys.append(groups.get(raw_name, path.relative_to(root).as_posix()))
        paths.append(str(path))
        states.append(f"{path} {state.st_size} {state.st_mtime_ns}")
    examples = ExampleTable(names, texts, keys, lambda index: open_image(Path(paths[index])))
    identity = digest(*states, *keys, *(text for one in texts for text in (*one, "")))
    return Examples(examples, skipped, identity)


def find_images(annotations: Path, names: Collection[str]) -> Path:
    """The folder with most of the named images.

    Looked at are the folder of the annotation file and its sub-folders (Flickr30k), then, if none
    of them has any, the folders beside that folder (COCO: `annotations/` beside `val2017/`).

    Raises:
        ValueError: no such folder has any of them.
    """
    home = annotations.resolve().parent
    wanted = frozenset(names)
    for candidates in ([home, *_folders_in(home)], _folders_in(home.parent)):
        best = max(candidates, key=partial(_count_in, wanted), default=home)
        if _count_in(wanted, best):
            return best
    raise ValueError(
        f"{annotations}: none of the {len(wanted)} pictures that it names lies beside it, in a "
        f"folder in {home} or in one beside {home}; say where they are with pictures="
    )


def _folders_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _count_in(wanted: frozenset[str], folder: Path) -> int:
    try:
        return sum(path.name in wanted for path in folder.iterdir())
    except OSError:
        return 0
