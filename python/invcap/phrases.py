"""Splits sentences into phrases, and composes new sentences from phrases of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from math import log
from re import split

import numpy as np

JOINED = 1
LONGEST = 5
CONTEXT = 3
EDGE = ""


def compositions(sentences: Iterable[str], others: Iterable[str]) -> Iterator[str]:
    """Yields sentences with one part replaced by that of another, for each difference of a pair."""
    sources = [other.split() for other in others]
    for words in (sentence.split() for sentence in sentences):
        for source in sources:
            for (start, end), part in differences(words, source):
                yield " ".join([*words[:start], *part, *words[end:]])


def differences(words: list[str], other: list[str]) -> list[tuple[tuple[int, int], list[str]]]:
    """Replacements that make a sentence more like another, as ((start, end), words).

    These are each span in which they differ; each word of a span of equal length in both; and two
    spans with one common word between them, together: "in the top corner" may become "on the left"
    at once.
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


@dataclass(frozen=True)
class Edit:
    """A replacement for the words of a sentence from `start` to before `end`."""

    start: int
    end: int
    words: tuple[str, ...]

    def overlaps(self, other: Edit) -> bool:
        """Whether both begin at the same word, or replace a common word."""
        return self.start == other.start or max(self.start, other.start) < min(self.end, other.end)


def edited(sentence: str, edits: Iterable[Edit]) -> str:
    """A sentence with edits that do not overlap."""
    words = sentence.split()
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        words[edit.start : edit.end] = edit.words
    return " ".join(words)


class Phrases:
    """Which phrases can replace each other: those that occur between the same words.

    Args:
        sentences: the sentences; they are kept as numbers, eight bytes a word.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        numbers = {EDGE: 0}
        text = [0]
        for sentence in sentences:
            text += [numbers.setdefault(word, len(numbers)) for word in sentence.split()]
            text.append(0)
        self._numbers = numbers
        self._words = list(numbers)
        self._text = np.array(text + [0] * (LONGEST + 2))
        self._places = self._text[: len(text)].argsort(kind="stable")
        self._first = np.searchsorted(self._text[self._places], np.arange(len(numbers) + 1))
        self._sequences = [np.unique(text, return_counts=True)]
        last = self._text[: len(text)]
        for order in range(1, CONTEXT + 1):
            codes = last[:-1] * len(numbers) + text[order:]
            found, last, counts = np.unique(codes, return_inverse=True, return_counts=True)
            self._sequences.append((found, counts))
        self._between: dict[tuple[tuple[str, ...], ...], list[tuple[str, ...]]] = {}

    def log_probability(self, sentence: str) -> float:
        """Log probability of a sentence, nats, by a four-gram model of the sentences.

        The model of each order is smoothed with that of the next lower order, which has the weight
        of one observation.

        Source: MacKay and Peto, "A hierarchical Dirichlet language model" (1995).
        """
        size = len(self._words)
        numbers = [0, *(self._numbers.get(word, size) for word in sentence.split()), 0]
        found = 0.0
        for at in range(1, len(numbers)):
            probability = 1 / (size + 1)
            for order in range(min(CONTEXT, at) + 1):
                context = numbers[at - order : at]
                seen = self._seen(context) if context else len(self._places)
                count = self._seen([*context, numbers[at]])
                probability = (count + probability) / (seen + 1)
            found += log(probability)
        return found

    def _seen(self, numbers: list[int]) -> int:
        """How often a sequence of words occurs."""
        size, at, count = len(self._words), 0, 0
        if max(numbers) >= size:
            return 0
        for number, (codes, counts) in zip(numbers, self._sequences, strict=False):
            code = at * size + number
            at = int(np.searchsorted(codes, code))
            if at == len(codes) or codes[at] != code:
                return 0
            count = int(counts[at])
        return count

    def between(self, before: tuple[str, ...], after: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Phrases of at most 5 words that occur between given words, the most frequent first.

        They occur after all words of `before` and before the first of `after`, or after the last
        of `before` and before all words of `after`.

        Args:
            before, after: words; "" is the edge of a sentence.
        """
        if (before, after) not in self._between:
            counts = self._count(before, after[:1])
            for part, count in self._count(before[-1:], after).items():
                counts[part] = counts.get(part, 0) + count
            self._between[before, after] = sorted(counts, key=counts.__getitem__, reverse=True)
        return self._between[before, after]

    def edits(self, sentence: str, start: int, most: int) -> list[Edit]:
        """Edits that replace a phrase of a sentence beginning at word `start`.

        Phrases have at most 5 words; their replacements occur between the same neighbours, two
        words on each side. A replacement must differ in the first and in the last word. Edits that
        consist of two independent edits, one after the other, are left out.

        Args:
            sentence: the sentence.
            start: number of the word, from 0.
            most: the largest number of edits; those of short phrases come first, then the most
                frequent, and insertions last.
        """
        words = sentence.split()
        around = [EDGE, *words, EDGE]
        before = tuple(around[max(0, start - 1) : start + 1])
        found = []
        for end in [*range(start + 1, min(start + LONGEST, len(words)) + 1), start]:
            part, after = tuple(words[start:end]), tuple(around[end + 1 : end + 3])
            found += [
                Edit(start, end, option)
                for option in self.between(before, after)
                if part != option
                and not (part and option and (part[0] == option[0] or part[-1] == option[-1]))
                and not self._composite(before[-1], part, option)
                and len(part) - len(option) < len(words)
            ]
        return found[:most]

    def _count(self, before: tuple[str, ...], after: tuple[str, ...]) -> dict[tuple[str, ...], int]:
        """Phrases between given words, at most two on each side, with their numbers."""
        if not {*before, *after} <= self._numbers.keys():
            return {}
        text = self._text
        *earlier, last = (self._numbers[word] for word in before)
        following = [self._numbers[word] for word in after]
        at = self._places[self._first[last] : self._first[last + 1]]
        for word in earlier:
            at = at[text[at - 1] == word]
        found: dict[tuple[str, ...], int] = {}
        for length in range(LONGEST + 1):
            here = at
            for place, word in enumerate(following, length + 1):
                here = here[text[here + place] == word]
            parts = text[here[:, None] + 1 + np.arange(length)]
            for part, count in zip(*np.unique(parts, axis=0, return_counts=True), strict=True):
                found[tuple(self._words[word] for word in part)] = int(count)
            at = at[text[at + length + 1] != 0]
        return found

    def _composite(self, left: str, part: tuple[str, ...], option: tuple[str, ...]) -> bool:
        """Whether the first word and the rest can be replaced one after the other."""
        if min(len(part), len(option)) < 2 or option[:1] not in self.between((left,), part[1:2]):
            return False
        joined = part[1] == option[1] and part[1 : 2 + JOINED] != option[1 : 2 + JOINED]
        return not joined or self._composite(part[1], part[2:], option[2:])
