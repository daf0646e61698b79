"""`metadata.jsonl` and `metadata.csv`, as Hugging Face's ImageFolder has them.

Columns: `file_name` (relative to the folder), the caption in `text`, `caption` or `captions` (in
JSON one text or a list of them), and optionally `group`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invcap.data.example import Skipped
from invcap.data.rows import Row

CAPTION_COLUMNS = ("text", "caption", "captions")


def read_metadata_jsonl(file: Path) -> Iterator[Row | Skipped]:
    """One JSON object a line; blank lines are skipped."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skipped(f"{file.name} line {number}", f"not JSON: {error}")
            else:
                yield _row(record, f"{file.name} line {number}")


def read_metadata_csv(file: Path) -> Iterator[Row | Skipped]:
    """Comma-separated, with a header.

    Raises:
        ValueError: the header lacks `file_name` or any caption column.
    """
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        records = csv.DictReader(lines)
        header = records.fieldnames or []
        if "file_name" not in header or not set(CAPTION_COLUMNS).intersection(header):
            raise ValueError(
                f"{file}: expected the columns file_name and one of "
                f"{', '.join(CAPTION_COLUMNS)}, got {', '.join(header) or 'none'}"
            )
        while True:
            try:
                record = next(records, None)
            except csv.Error as error:
                yield Skipped(f"{file.name} line {records.line_num}", f"not CSV: {error}")
                continue
            if record is None:
                return
            yield _row(record, f"{file.name} line {records.line_num}")


def _row(record: Any, place: str) -> Row | Skipped:
    if not isinstance(record, dict):
        return Skipped(place, f"expected an object, got {type(record).__name__}")
    if None in record:
        reason = "more columns than the header has: a caption with a comma needs quotes"
        return Skipped(place, reason)
    name = record.get("file_name")
    if not isinstance(name, str) or not name.strip():
        return Skipped(place, f"expected a file_name, got {name!r}")
    captions: list[Any] = []
    for column in CAPTION_COLUMNS:
        value = record.get(column)
        if value is not None:
            captions.extend(value if isinstance(value, list) else [value])
    group = record.get("group")
    return Row(name, tuple(captions), None if group is None else str(group))
