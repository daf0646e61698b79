"""What every source of captioned images yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from logging import Logger
from typing import overload

import datasets
from PIL import Image

LISTED_IN_A_WARNING = 20


@dataclass(frozen=True)
class Example:
    """One image and its captions.

    Attributes:
        name: what logs and reports call the image: a file name or an id.
        captions: at least one, each stripped and not empty.
        group: all examples of a group are on one side of a split; by default the image itself.
        open: decodes the image (RGB); raises OSError if it is broken.
    """

    name: str
    captions: tuple[str, ...]
    group: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class Skipped:
    """An image, caption or line that was left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ExampleTable(Sequence[Example]):
    """Examples whose texts are in an Arrow table and whose images are opened when asked for.

    Args:
        names, captions, groups: see `Example`, one for each.
        open_at: decodes the image of the example with a number.
    """

    def __init__(
        self,
        names: Sequence[str],
        captions: Sequence[Sequence[str]],
        groups: Sequence[str],
        open_at: Callable[[int], Image.Image],
    ) -> None:
        words = {"name": names, "captions": captions, "group": groups}
        text = datasets.Value("string")
        kinds = {"name": text, "captions": datasets.List(text), "group": text}
        self._words = datasets.Dataset.from_dict(words, datasets.Features(kinds))
        self._open_at = open_at

    def __len__(self) -> int:
        return len(self._words)

    @overload
    def __getitem__(self, chosen: int) -> Example: ...

    @overload
    def __getitem__(self, chosen: slice) -> list[Example]: ...

    def __getitem__(self, chosen: int | slice) -> Example | list[Example]:
        numbers = range(len(self))[chosen]
        if isinstance(numbers, int):
            return self._examples([numbers])[0]
        return self._examples(numbers)

    def __iter__(self) -> Iterator[Example]:
        for first in range(0, len(self), 1000):
            yield from self[first : first + 1000]

    def _examples(self, numbers: Sequence[int]) -> list[Example]:
        words = self._words[list(numbers)]
        columns = zip(numbers, words["name"], words["captions"], words["group"], strict=True)
        return [
            Example(name, tuple(captions), group, partial(self._open_at, number))
            for number, name, captions, group in columns
        ]


@dataclass
class Examples:
    """What a source gave.

    Attributes:
        examples: a sequence, or an iterable that may be gone through again.
        skipped: what was left out of them.
        identity: changes whenever an image or a caption does; empty where that is not known.
    """

    examples: Sequence[Example] | Iterable[Example] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    identity: str = ""


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
