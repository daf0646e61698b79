"""Names of openclipart's drawings: their titles, or what file and folder say instead."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

KEYWORDS = 6
SERIES = 4  # drawings with one title that none of their file names repeats

# Titles of whole collections, and what was stamped on them.
SAYS_NOTHING = re.compile(
    r"part of the flat icon collection.*|lemon svg theme|etiquette icons|aiga.symbol.signs"
    r"|various cliparts|svg gradient collection.*|(svg )?road signs|gramastar|r16 sibmission"
    r"|blueberry - iconset|homes clipart|map symbols|sallite|advertising"
    r"|clipart by nicu buculei.*|unsorted|untitled.*|hash\(.*|[\W\d_]*",
    re.IGNORECASE,
)
STAMP = re.compile(r"^clipart by .*? - ", re.IGNORECASE)
CARD = re.compile(r"(white|simple|bordered|ornamental)_([cdhs]|jk)_(\w+)")
STAR = re.compile(r"star_(\d+)pt(\d+)step")
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king", "b": "black", "r": "red"}

SMALL = ("and", "da", "de", "del", "di", "du", "la", "of", "the")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=up|wn|ft|ht)(?=arrow)")
TINT = re.compile(
    "black|white|gr[ae]y|red|orange|yellow|green|lime|cyan|blue|navy|violet|purple|pink|brown|gold"
    "|silver|light|dark|bw|colou?r(ed)?|outline|shaded"
)
# Words of file names that belong to icon themes, formats and authors.
FILE_NOISE = re.compile(
    "svg|md|ganson|aj|bb|aiga|gnome|gtk|fs|stock|hash|(open)?clipart|bwh|fc|rpswb"
)
# Keywords that say where a drawing was filed, and for what.
KEYWORD_NOISE = re.compile(
    "hash|unsorted|theme|icons?|appicon|menu|magick|(open)?clipart|special|webpage|extern|work"
    "|stock|lemon_theme_icon|mime-?types|hotel|musicstuff|festive"
)
SPELLED = {
    "mapsym": "map symbol",
    "map_symbol": "map symbol",
    "networksym": "network symbol",
    "arrowshape": "arrow",
    "roadsign": "road sign",
    "roadsigns": "road signs",
    "aiga-symbols": "map symbols",
    "signalflag": "signal flag",
    "icecream": "ice cream",
    "unitedstates": "united states",
    "northamerica": "north america",
    "bodypart": "body part",
    "actions": "action",
    "apps": "application",
    "applications": "application",
    "devices": "device",
    "filesystems": "filesystem",
    "mimetypes": "file type",
}


@dataclass(frozen=True)
class Facts:
    """What a drawing's file says of it.

    Attributes:
        path: relative to the collection's folder, without a suffix.
        title: as it stands in the metadata; may be empty.
        keywords: as they stand there.
        creator: the author's name.
    """

    path: PurePosixPath
    title: str = ""
    keywords: Sequence[str] = ()
    creator: str = ""


@dataclass(frozen=True)
class Naming:
    """What a drawing is called.

    Attributes:
        captions: its title; its title and up to six keywords, or its folder.
        stem: drawings of one series have the same.
        replaced: the title in the metadata said nothing.
    """

    captions: list[str]
    stem: str
    replaced: bool


def name_drawings(drawings: Sequence[Facts]) -> list[Naming]:
    """What each of some drawings is called, by its metadata or by its file and folder.

    A title says nothing if it is one of a collection (`SAYS_NOTHING`), or if `SERIES` drawings or
    more have it and the drawing's file name repeats none of its words.
    """
    shared = Counter(facts.title for facts in drawings)
    return [_name(facts, shared[facts.title] >= SERIES) for facts in drawings]


def _name(facts: Facts, shared: bool) -> Naming:
    if special := _special(facts.path.name):
        called, stem = special
        return Naming(_captions(called, facts), stem, replaced=True)
    title, from_file = clean_title(facts.title), file_words(facts.path.name, facts.creator)
    says_nothing = not title or SAYS_NOTHING.fullmatch(facts.title.strip()) is not None
    if shared and any(len(word) > 2 for word in from_file):
        says_nothing = says_nothing or {*_words(title)}.isdisjoint(from_file)
    if not says_nothing:
        called = _flag_of(title, facts)
        folder = folder_words(facts.path, _words(called))
        return Naming(_captions(called, facts, folder), stem_of(title), replaced=False)
    name, folder = " ".join(from_file), folder_words(facts.path, from_file)
    called = _flag_of(name, facts)
    if called == name:
        called = ", ".join(filter(None, [name, folder])) or facts.path.name
    return Naming(_captions(called, facts), stem_of(name or called), replaced=True)


def _captions(called: str, facts: Facts, otherwise: str = "") -> list[str]:
    further = ", ".join(clean_keywords(facts, called)) or otherwise
    return [called, f"{called}: {further}"] if further else [called]


def clean_title(title: str) -> str:
    """A title without stamps, entities, underscores and numbers of files."""
    title = STAMP.sub("", html.unescape(title)).removesuffix(".svg").strip()
    if " " not in title:
        title = " ".join(CAMEL.sub(" ", title).replace("_", " ").replace("-", " ").split())
    title = re.sub(r"\s*#?\b\d+$|(?<=[a-z]{3})\d+$", "", title.replace("#", " #")).strip(" -_")
    return " ".join(_printable(title).split())


def file_words(name: str, creator: str) -> list[str]:
    """The words in the name of a file, lower case, without its author, number and theme."""
    name = re.sub(r"\.(svg|py)", "", name)
    author = "_".join(_words(creator))
    base = re.sub(r"[_\d]*(_r)?$", "", name)
    for length in range(len(author), 2, -1):
        if base.casefold().endswith("_" + author[:length]):
            base = base[: -length - 1]
            break
    words = _words(CAMEL.sub(" ", base).replace("_", " "))
    return [word for word in words if len(word) > 1 and not FILE_NOISE.fullmatch(word)]


def folder_words(path: PurePosixPath, besides: Sequence[str]) -> str:
    """The last folder that says more than `besides` does, as words."""
    parts = [
        part
        for part in path.parent.parts
        if not part.endswith("-theme") and part not in ("unsorted", "duplicates", "special")
    ]
    kind = "icon" if "icons" in parts else ""
    for part in reversed(parts):
        words = _spelled(part)
        if part != "icons" and not any(word[:4] in words for word in besides if len(word) > 3):
            return f"{words} {kind}".strip()
    return kind


def clean_keywords(facts: Facts, called: str) -> list[str]:
    """Up to six keywords that say something which a drawing's name does not."""
    said = {form for word in _words(called) for form in (word, word.removesuffix("s"))}
    kept: dict[str, None] = {}
    for keyword in facts.keywords:
        keyword = keyword.strip().casefold()
        noise = KEYWORD_NOISE.fullmatch(keyword) or keyword == facts.creator.casefold()
        phrase = _spelled(keyword)
        plain = phrase == _printable(phrase) and not re.search(r"[@(\d]", phrase)
        if plain and not noise and not {*_words(phrase)} <= said:
            kept[phrase] = None
    return list(kept)[:KEYWORDS]


def stem_of(title: str) -> str:
    """What drawings of one series share: a title without colours, numbers and parentheses."""
    words = _words(re.sub(r"\(.*?\)", " ", title))
    kept = [word for word in words if len(word) > 1 and not TINT.fullmatch(word)]
    return " ".join(kept or words)


def _special(name: str) -> tuple[str, str] | None:
    """Title and stem of what was numbered by a program: playing cards and star polygons."""
    if card := CARD.fullmatch(name):
        style, suit, rank = card.groups()
        rank = RANKS.get(rank, rank)
        what = f"{rank} joker" if suit == "jk" else f"{rank} of {SUITS[suit]}"
        return f"{what}, {style} playing card", "playing card"
    if star := STAR.fullmatch(name):
        points, step = map(int, star.groups())
        return f"star with {points} points, step {step}", "star with points"
    return None


def _flag_of(name: str, facts: Facts) -> str:
    """A country's name as that of its flag, among the flags."""
    shown = ("flag", "map", "globe", "symbol", "coat", "arms")
    tagged = "flag" in facts.keywords or not any(facts.keywords)
    if "flags" not in facts.path.parts or not tagged:
        return name
    if not name or any(word in name.casefold() for word in shown):
        return name
    if name.islower():
        name = " ".join(word if word in SMALL else word.capitalize() for word in name.split())
    return f"flag of {name}"


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _spelled(word: str) -> str:
    return SPELLED.get(word, word.replace("_", " ").replace("-", " "))


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
