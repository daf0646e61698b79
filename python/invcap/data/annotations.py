"""Keywords of emoji: Unicode's annotations (CLDR)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from invcap.data.emoji_groups import EMOJI_PRESENTATION

CLDR = Path("/usr/share/unicode/cldr/common")
PACKAGE = "unicode-cldr-core"
FILES = ("annotations/en.xml", "annotationsDerived/en.xml")


def read_annotations(folder: Path = CLDR) -> dict[str, list[str]]:
    """English keywords of each emoji (without U+FE0F), in the order of the files.

    Raises:
        ValueError: one of `FILES` is not in `folder`, or is not of their format.
    """
    found = {}
    for name in FILES:
        file = folder / name
        if not file.is_file():
            raise ValueError(
                f"annotations: no file {file}; expected Unicode's annotations, which Debian has in "
                f"the package {PACKAGE} (apt-get install {PACKAGE})"
            )
        try:
            root = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as error:
            raise ValueError(f"annotations: expected XML, got {file}: {error}") from None
        for annotation in root.iter("annotation"):
            if "type" not in annotation.attrib and annotation.text:
                emoji = annotation.attrib["cp"].replace(EMOJI_PRESENTATION, "")
                found[emoji] = [keyword.strip() for keyword in annotation.text.split("|")]
    if not found:
        raise ValueError(f"annotations: expected annotations of emoji in {folder}, got none")
    return found
