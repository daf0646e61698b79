"""New sentences, composed of parts of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import pairwise

JOINED = 1


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
