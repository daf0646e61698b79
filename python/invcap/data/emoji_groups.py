"""Which emoji are one thing in several skin tones, genders or directions."""

from __future__ import annotations

JOINER = "\u200d"
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
EMOJI_PRESENTATION = "\ufe0f"
VARIANT_SIGNS = "♀♂➡"

# Each line is one being (or pair, or door) in its genders; the last stands for all.
GENDERS = (
    "👨👩🧑",
    "👦👧🧒",
    "👴👵🧓",
    "🤴👸🫅",
    "🎅🤶",
    "🕺💃",
    "🤰🫃🫄",
    "👬👭👫",
    "🚹🚺",
)
NEUTRAL = {member: line[-1] for line in GENDERS for member in line}

# Sequences, after that, which are the same thing as a single emoji.
SEQUENCES = {
    "🧑🤝🧑": "👫",
    "🧑❤🧑": "💑",
    "🧑❤💋🧑": "💏",
    "🧑🐰🧑": "👯",
    "🧑🫯🧑": "🤼",
    "🧑🎄": "🤶",
    "🫱🫲": "🤝",
}


def group_of(emoji: str) -> str:
    """What is left of `emoji` without skin tone, gender and direction.

    Couples with hearts are one group in whatever genders and tones, and so are kisses, people
    holding hands, handshakes, and all families.

    >>> group_of("👩🏽‍🚒") == group_of("👨‍🚒") == group_of("🧑🏿‍🚒")
    True
    """
    dropped = SKIN_TONES + EMOJI_PRESENTATION
    first, *rest = ("".join(c for c in emoji if c not in dropped) or emoji).split(JOINER)
    parts = [first, *(part for part in rest if part not in VARIANT_SIGNS)]
    neutral = "".join(NEUTRAL.get(c, c) for part in parts for c in part)
    if len(parts) > 1 and set(neutral) <= {"🧑", "🧒"}:
        return "👪"
    return SEQUENCES.get(neutral, neutral)
