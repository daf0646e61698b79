"""What every source of captioned pictures yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from logging import Logger

from PIL import Image

LISTED_IN_A_WARNING = 20


@dataclass(frozen=True)
class Example:
    """One picture and its captions.

    Attributes:
        name: what logs and reports call the picture: a file name or an id.
        captions: at least one, each stripped and not empty.
        group: examples of one group never straddle a split; by default the picture itself.
        open: decodes the picture (RGB); raises OSError if it is broken.
    """

    name: str
    captions: tuple[str, ...]
    group: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class Skipped:
    """A picture, caption or line that was left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class Examples:
    """What a source gave: the usable examples and what was left out of them."""

    examples: list[Example] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def listing(skipped: Sequence[Skipped], most: int) -> str:
    """The first `most` of `skipped`, one a line, and how many more there are."""
    lines = [f"  {item}" for item in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  and {len(skipped) - most} more")
    return "\n".join(lines)


def log_skipped(skipped: Sequence[Skipped], logger: Logger) -> None:
    """Warns once, with the count and the first 20; every one is logged at debug level."""
    if not skipped:
        return
    logger.warning("skipped %d:\n%s", len(skipped), listing(skipped, LISTED_IN_A_WARNING))
    for item in skipped:
        logger.debug("skipped %s", item)
