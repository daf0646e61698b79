"""The images in Noto Color Emoji: bitmaps out of its CBDT table."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import Image

from invcap.data.emoji_groups import EMOJI_PRESENTATION
from invcap.data.images import pad_to_square, to_rgb

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIGATURES = 4


def read_noto(font: Path = NOTO) -> Callable[[str], Image.Image | None]:
    """A function that draws an emoji (RGB, square, on white), or gives None if it has none.

    A sequence of code points (flag, keycap, skin tone, zero-width joiner) is one glyph by the
    ligatures of the GSUB table, in which the emoji presentation selector U+FE0F plays no part.

    Raises:
        ValueError: there is no such font, or it has no colour bitmaps.
    """
    if not font.is_file():
        raise ValueError(
            f"font: no file {font}; expected Noto Color Emoji, which Debian has in the package "
            "fonts-noto-color-emoji (apt install fonts-noto-color-emoji)"
        )
    try:
        tables = TTFont(font)
        glyphs = tables.getBestCmap()
        bitmaps = tables["CBDT"].strikeData[0]
        ligatures = _ligatures(tables)
    except (TTLibError, KeyError) as error:
        raise ValueError(f"font: expected one with CBDT and GSUB tables, got {font}") from error

    def draw(emoji: str) -> Image.Image | None:
        parts = tuple(glyphs.get(ord(c)) for c in emoji if c != EMOJI_PRESENTATION)
        glyph = parts[0] if len(parts) == 1 else ligatures.get(parts)
        return _on_white(bitmaps[glyph].imageData) if glyph in bitmaps else None

    return draw


def _ligatures(font: TTFont) -> dict[tuple[str, ...], str]:
    return {
        (first, *ligature.Component): ligature.LigGlyph
        for lookup in font["GSUB"].table.LookupList.Lookup
        if lookup.LookupType == LIGATURES
        for table in lookup.SubTable
        for first, ligatures in table.ligatures.items()
        for ligature in ligatures
    }


def _on_white(png: bytes) -> Image.Image:
    return pad_to_square(to_rgb(Image.open(io.BytesIO(png), formats=["PNG"])))
