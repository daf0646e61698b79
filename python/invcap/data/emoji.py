"""Real captioned pictures on any Debian machine: its colour emoji and their English names."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji import EMOJI_DATA, STATUS

from invcap.data.emoji_groups import group_of
from invcap.data.noto import NOTO, read_noto

PHRASE = re.compile(r"[a-z]{3}", re.IGNORECASE)


@dataclass(frozen=True)
class EmojiSummary:
    """What `write_emoji` wrote."""

    folder: Path
    pictures: int
    groups: int


def write_emoji(output: Path, font: Path = NOTO) -> EmojiSummary:
    """Draws every emoji that `font` has into a folder that `load_examples` reads.

    The folder gets a PNG for each emoji, at the font's own resolution, and `metadata.jsonl` with
    `file_name`, `text` (the name), `captions` (the name and its other phrasings) and `group` (see
    `group_of`). It appears complete or not at all.

    Raises:
        ValueError: `output` exists and is not an empty folder, or the font is missing.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ValueError(f"output: expected a new or empty folder, got {output}, which has content")
    draw = read_noto(font)
    output.parent.mkdir(parents=True, exist_ok=True)
    groups: set[str] = set()
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary:
        folder = Path(temporary) / "emoji"
        folder.mkdir()
        for emoji, facts in EMOJI_DATA.items():
            if facts["status"] != STATUS["fully_qualified"] or (picture := draw(emoji)) is None:
                continue
            file_name = "-".join(f"{ord(character):x}" for character in emoji) + ".png"
            picture.save(folder / file_name)
            captions, group = phrasings(facts), group_of(emoji)
            groups.add(group)
            lines.append(
                json.dumps(
                    {
                        "file_name": file_name,
                        "text": captions[0],
                        "captions": captions,
                        "group": group,
                    },
                    ensure_ascii=False,
                )
            )
        if not lines:
            raise ValueError(f"font: expected emoji, got {font}, which has none")
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folder.rename(output)
    return EmojiSummary(output, len(lines), len(groups))


def phrasings(facts: dict[str, Any]) -> list[str]:
    """The English name of an emoji and its aliases, as words, the name first.

    Aliases that are codes instead of words (`de`, `+1`, `u7121`) are left out.
    """
    name, *aliases = (_words(text) for text in (facts["en"], *facts.get("alias", ())))
    unique = {name.casefold(): name}
    for alias in aliases:
        if PHRASE.search(alias):
            unique.setdefault(alias.casefold(), alias)
    return list(unique.values())


def _words(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").replace("’", "'").split())
