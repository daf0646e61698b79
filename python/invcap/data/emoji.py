"""Real captioned images on any Debian machine: its colour emoji and their English names."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emoji import EMOJI_DATA, STATUS

from invcap.data.annotations import CLDR, PACKAGE, read_annotations
from invcap.data.emoji_groups import EMOJI_PRESENTATION, group_of
from invcap.data.new_folder import Captioned, FolderSummary, new_folder, write_metadata
from invcap.data.noto import NOTO, read_noto

logger = logging.getLogger(__name__)
PHRASE = re.compile(r"[a-z]{3}", re.IGNORECASE)


def write_emoji(output: Path, font: Path = NOTO, annotations: Path | None = None) -> FolderSummary:
    """Draws every emoji that `font` has into a folder that `load_examples` reads.

    The folder gets a PNG for each emoji, at the font's own resolution, and `metadata.jsonl` with
    `file_name`, `text` (the name), `captions` (see `phrasings`) and `group` (see `group_of`). It
    appears complete or not at all.

    Args:
        output: the folder to write.
        font: Noto Color Emoji.
        annotations: CLDR's folder `common`, whose keywords become a caption; by default Debian's,
            if it is there.

    Raises:
        ValueError: `output` exists and is not an empty folder, or the font is missing, or the
            annotations that were asked for.
    """
    draw = read_noto(font)
    keywords = _keywords(annotations)
    rows: list[Captioned] = []
    with new_folder(output) as folder:
        for emoji, facts in EMOJI_DATA.items():
            if facts["status"] != STATUS["fully_qualified"] or (picture := draw(emoji)) is None:
                continue
            file_name = "-".join(f"{ord(character):x}" for character in emoji) + ".png"
            picture.save(folder / file_name)
            captions = phrasings(facts, keywords.get(emoji.replace(EMOJI_PRESENTATION, ""), ()))
            rows.append(Captioned(file_name, captions, group_of(emoji)))
        if not rows:
            raise ValueError(f"font: expected emoji, got {font}, which has none")
        write_metadata(folder, rows)
    return FolderSummary(output, len(rows), len({row.group for row in rows}))


def phrasings(facts: dict[str, Any], keywords: Sequence[str] = ()) -> list[str]:
    """The English name of an emoji, its aliases, and its name with its keywords; the name first.

    Aliases and keywords that are codes instead of words (`de`, `+1`, `u7121`) are left out, and
    keywords that are the name.
    """
    name, *aliases = (_words(text) for text in (facts["en"], *facts.get("alias", ())))
    unique = {name.casefold(): name}
    for alias in aliases:
        if PHRASE.search(alias):
            unique.setdefault(alias.casefold(), alias)
    said = [word for word in keywords if PHRASE.search(word) and word.casefold() not in unique]
    return [*unique.values(), *([f"{name}: {', '.join(said)}"] if said else [])]


def _keywords(annotations: Path | None) -> dict[str, list[str]]:
    if annotations is None and not CLDR.is_dir():
        logger.info(
            "%s: no such folder, so emoji have their names alone as captions; Debian has their "
            "keywords in the package %s (apt-get install %s)",
            *(CLDR, PACKAGE, PACKAGE),
        )
        return {}
    return read_annotations(annotations or CLDR)


def _words(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").replace("’", "'").split())
