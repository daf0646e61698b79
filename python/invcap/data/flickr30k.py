"""Flickr30k: Kaggle's `results.csv` and the original `*.token` file (Young et al., TACL 2014)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from invcap.data.example import Skipped
from invcap.data.rows import Row

HEADER = ["image_name", "comment_number", "comment"]
MISSING_SEPARATOR = re.compile(r"(\d+)\s+(.*)", re.DOTALL)


def read_results_csv(file: Path) -> Iterator[Row | Skipped]:
    """`image_name| comment_number| comment`; quotes mean nothing and a comment may hold `|`.

    Kaggle's file has a row without its second separator
    (`2199200615.jpg| 4   A dog runs across the grass .`): such rows are read all the same.

    Raises:
        ValueError: the first line is another one.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next(lines, "").rstrip("\n")
        if [column.strip() for column in first.split("|")] != HEADER:
            raise ValueError(f"{file}: expected the first line {'| '.join(HEADER)}, got {first!r}")
        for number, line in enumerate(lines, start=2):
            if line.strip():
                yield _results_row(line, f"{file.name} line {number}")


def _results_row(line: str, place: str) -> Row | Skipped:
    columns = [column.strip() for column in line.split("|", 2)]
    if len(columns) == 2 and (joined := MISSING_SEPARATOR.fullmatch(columns[1])):
        columns[1:] = joined.groups()
    if len(columns) != 3:
        return Skipped(place, f"expected three columns with | between them, got {line.strip()!r}")
    return Row(columns[0], (columns[2],))


def read_token(file: Path) -> Iterator[Row | Skipped]:
    """`1000092795.jpg#0`, a tab, the caption; one caption a line."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, tab, caption = line.partition("\t")
            name, hash_sign, _ = key.rpartition("#")
            if tab and hash_sign:
                yield Row(name, (caption,))
            else:
                yield Skipped(
                    f"{file.name} line {number}",
                    f"expected NAME#NUMBER, a tab and a caption, got {line.strip()!r}",
                )
