"""Sentences in parts, and new ones composed of the parts of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from math import log
from re import split

import numpy as np

JOINED = 1
LONGEST = 5
ALONE = 0.1
EDGE = ""


def compositions(sentences: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    """Yields each sentence with one part put in from another, for every part they differ in."""
    sources = [other.split() for other in others]
    for words in (sentence.split() for sentence in sentences):
        for source in sources:
            for (start, end), part in differences(words, source):
                yield " ".join([*words[:start], *part, *words[end:]])


def differences(words: list[str], other: list[str]) -> list[tuple[tuple[int, int], list[str]]]:
    """What may be replaced in a sentence to make it more like another, as ((start, end), words).

    That is each stretch in which they differ; each word of it, if it is as long in both; and
    stretches with one common word between them together: "in the top corner" may become "on the
    left" at once.
    """
    matches = SequenceMatcher(None, words, other, autojunk=False).get_opcodes()
    stretches = [place for kind, *place in matches if kind != "equal"]
    found = list(stretches)
    for start, end, first, last in stretches:
        if end - start == last - first > 1:
            found += [
                [start + i, start + i + 1, first + i, first + i + 1] for i in range(end - start)
            ]
    for before, after in pairwise(stretches):
        if after[0] - before[1] <= JOINED:
            found.append([before[0], after[1], before[2], after[3]])
    return [((start, end), other[first:last]) for start, end, first, last in found]


def clauses(sentence: str) -> list[str]:
    """The parts of a sentence between commas and other marks, if there is more than one."""
    parts = [part.strip() for part in split(r"[,.;:!?]", sentence)]
    parts = [part for part in parts if part]
    return parts if len(parts) > 1 else []


class Phrases:
    """Which words stand in place of each other: those that are seen between the same two words.

    Args:
        sentences: in which they are seen. They are kept as numbers, eight bytes a word.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        numbers = {EDGE: 0}
        text = [0]
        for sentence in sentences:
            text += [numbers.setdefault(word, len(numbers)) for word in sentence.split()]
            text.append(0)
        self._numbers = numbers
        self._words = list(numbers)
        self._text = np.array(text + [0] * (LONGEST + 1))
        self._places = self._text[: len(text)].argsort(kind="stable")
        self._first = np.searchsorted(self._text[self._places], np.arange(len(numbers) + 1))
        self._pairs = np.sort(self._text[: len(text) - 1] * len(numbers) + text[1:])
        self._between: dict[tuple[str, str], list[tuple[str, ...]]] = {}

    def log_probability(self, sentence: str) -> float:
        """Of a sentence, nats: each word given the one before it, as often as they are seen so.

        A tenth of each probability is that of the word alone, which is never 0.
        """
        numbers = [0, *(self._numbers.get(word, -1) for word in sentence.split()), 0]
        size, total = len(self._words), len(self._pairs)
        found = 0.0
        for before, word in pairwise(numbers):
            alone = (self._seen(word) + 1) / (total + size)
            joint = 0.0
            if min(before, word) >= 0:
                pair = np.searchsorted(self._pairs, before * size + word + np.arange(2))
                joint = (pair[1] - pair[0]) / self._seen(before)
            found += log((1 - ALONE) * joint + ALONE * alone)
        return found

    def _seen(self, number: int) -> int:
        return int(self._first[number + 1] - self._first[number]) if number >= 0 else 0

    def between(self, left: str, right: str) -> list[tuple[str, ...]]:
        """What stands between two words, 1 to 5 words, the most frequent first.

        Args:
            left, right: words; "" is the edge of a sentence.
        """
        if (left, right) not in self._between:
            self._between[left, right] = self._count(left, right)
        return self._between[left, right]

    def variations(self, sentence: str, start: int, most: int) -> list[str]:
        """The sentence with its part from word `start` on replaced by what may stand there.

        Parts are of 1 to 5 words. What differs from them in its first and last word is put
        in; what replaces two parts at once that can be replaced one after the other is not.

        Args:
            most: sentences; those with shorter parts replaced come first, then by frequency.
        """
        words = sentence.split()
        left = words[start - 1] if start else EDGE
        found: dict[str, None] = {}
        for end in range(start + 1, min(start + LONGEST, len(words)) + 1):
            part, right = tuple(words[start:end]), words[end] if end < len(words) else EDGE
            options = [
                option
                for option in self.between(left, right)
                if part[0] != option[0]
                and part[-1] != option[-1]
                and not self._composite(left, part, option)
            ]
            for option in options:
                found[" ".join([*words[:start], *option, *words[end:]])] = None
        return list(found)[:most]

    def _count(self, left: str, right: str) -> list[tuple[str, ...]]:
        if left not in self._numbers or right not in self._numbers:
            return []
        text, number, wanted = self._text, self._numbers[left], self._numbers[right]
        at = self._places[self._first[number] : self._first[number + 1]]
        found: list[tuple[int, tuple[str, ...]]] = []
        for length in range(1, LONGEST + 1):
            at = at[text[at + length] != 0]
            here = at[text[at + length + 1] == wanted]
            parts = text[here[:, None] + 1 + np.arange(length)]
            for part, count in zip(*np.unique(parts, axis=0, return_counts=True), strict=True):
                found.append((int(count), tuple(self._words[word] for word in part)))
        return [part for _, part in sorted(found, key=lambda one: -one[0])]

    def _composite(self, left: str, part: tuple[str, ...], option: tuple[str, ...]) -> bool:
        """Whether the first word may be replaced by itself, and the rest after it."""
        if min(len(part), len(option)) < 2 or option[:1] not in self.between(left, part[1]):
            return False
        joined = part[1] == option[1] and part[1 : 2 + JOINED] != option[1 : 2 + JOINED]
        return not joined or self._composite(part[1], part[2:], option[2:])
