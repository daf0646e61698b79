"""Rows of numbers and texts in shards on disk, written by all processes, mapped into memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from math import ceil
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from invcap.files import read_json, remove_unfinished, replacing, write_json

logger = logging.getLogger(__name__)
SHARD_ROWS = 2048
COMPLETE = "complete.json"

Item = TypeVar("Item")


class Rows(Protocol):
    """Rows of numbers, in memory or on disk, such as a tensor (N, n)."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        """The rows whose numbers are in `chosen`, (K,) int64: (K, n) on the CPU."""
        ...


def write_shards(
    items: Sequence[Item] | Iterable[Item],
    encode: Callable[[Sequence[Item]], pa.Table],
    folder: Path,
    accelerator: Accelerator,
    name: str,
    rows: int = SHARD_ROWS,
) -> list[Path]:
    """Encodes items, by default 2,048 at a time, each shard in a file that is complete or absent.

    The processes take shards in turn. Shards that exist and are not broken are kept.

    Args:
        items: a sequence, or an iterable, which every process goes through.
        encode: items to a table.
        folder: of the shards, which nothing else may write to.
        name: what the progress bar calls the items.
        rows: of a shard.

    Returns:
        The files, in the order of the items.
    """
    complete = folder / COMPLETE
    if accelerator.is_main_process and folder.exists():
        _remove_broken(folder)
    accelerator.wait_for_everyone()
    if not complete.exists():
        shards = ceil(len(items) / rows) if isinstance(items, Sequence) else None
        done = 0
        with tqdm(total=shards, desc=name, disable=not accelerator.is_local_main_process) as bar:
            for number, part in enumerate(_parts(items, rows)):
                path = folder / f"{number:06}.arrow"
                mine = number % accelerator.num_processes == accelerator.process_index
                if mine and not path.exists():
                    _write(path, encode(part))
                done += 1
                bar.update()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(complete, {"shards": done})
        accelerator.wait_for_everyone()
    return [folder / f"{number:06}.arrow" for number in range(read_json(complete)["shards"])]


def read_column(paths: Sequence[Path], name: str) -> list[Any]:
    """All values of a column of texts, lists or flags, in memory."""
    return [value for path in paths for value in _open(path).column(name).to_pylist()]


def read_metadata(paths: Sequence[Path], name: str) -> list[str]:
    """What the shards say under a name beside their rows."""
    return [(_open(path).schema.metadata or {})[name.encode()].decode() for path in paths]


def numbers(values: np.ndarray) -> pa.Array:
    """An Arrow column of rows, each of the same count of numbers: (N, ...) of any dtype."""
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


class ShardRows:
    """A column of numbers in shards as rows (N, n), of which only those asked for are read.

    They are read with system calls: with a memory map, the pages around each row would count as
    resident memory.

    Args:
        paths: of the shards.
        name: of the column.
        width: n, numbers of a row; by default those of the column's.
    """

    def __init__(self, paths: Sequence[Path], name: str, width: int | None = None) -> None:
        self._paths = list(paths)
        columns = [_locate(path, name, width) for path in self._paths]
        self._offsets = [offset for offset, _ in columns]
        self._ends = np.cumsum([len(values) for _, values in columns])
        self._starts = self._ends - [len(values) for _, values in columns]
        self._empty = columns[0][1][:0].copy()

    @property
    def identity(self) -> str:
        """Differs for other rows."""
        return self._paths[0].parent.name

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        order = np.argsort(chosen.numpy(), kind="stable")
        wanted = chosen.numpy()[order]
        shards = np.searchsorted(self._ends, wanted, side="right")
        found = np.empty((len(wanted), self._empty.shape[1]), self._empty.dtype)
        ends = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(shards) != 0)) + 1
        runs = pairwise([0, *ends.tolist(), len(wanted)] if len(wanted) else [])
        for shard, in_shard in groupby(runs, lambda run: shards[run[0]]):
            parts = [
                (found[first:end], int(wanted[first] - self._starts[shard]))
                for first, end in in_shard
            ]
            _read_into(parts, self._paths[shard], self._offsets[shard])
        rows = torch.from_numpy(found[np.argsort(order)])
        return rows.float() if rows.dtype == torch.float16 else rows


class ChosenRows:
    """Some rows of others.

    Args:
        rows: the others.
        chosen: (N,) int64, which of them.
    """

    def __init__(self, rows: Rows, chosen: Tensor) -> None:
        self._rows, self._chosen = rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, chosen: Tensor, /) -> Tensor:
        return self._rows[self._chosen[chosen]]


def blocks(rows: Rows, size: int = 8192) -> Iterator[Tensor]:
    """All rows, a block at a time."""
    for first in range(0, len(rows), size):
        yield rows[torch.arange(first, min(first + size, len(rows)))]


def _parts(items: Sequence[Item] | Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    if isinstance(items, Sequence):
        for first in range(0, len(items), size):
            yield items[first : first + size]
        return
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def _write(path: Path, table: pa.Table) -> None:
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table.combine_chunks())


def _remove_broken(folder: Path) -> None:
    remove_unfinished(folder)
    for path in folder.glob("*.arrow"):
        try:
            _open(path)
        except pa.ArrowInvalid as error:
            logger.warning("%s: %s; computing it again", path, error)
            path.unlink()
            (folder / COMPLETE).unlink(missing_ok=True)


def _open(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _locate(path: Path, name: str, width: int | None) -> tuple[int, np.ndarray]:
    """Where a shard's numbers begin, bytes from its start, and the numbers, mapped: (N, n)."""
    source = pa.memory_map(str(path))
    start = source.read_buffer(1).address
    column = pa.ipc.open_file(source).read_all().column(name)
    kept = column.chunk(0).values if column.num_chunks else pa.array([], column.type.value_type)
    values = kept.to_numpy().reshape(-1, width or column.type.list_size)
    return values.ctypes.data - start, values


def _read_into(parts: Sequence[tuple[np.ndarray, int]], path: Path, offset: int) -> None:
    """Reads runs of rows, each from its first row's number in the shard on."""
    file = os.open(path, os.O_RDONLY)
    try:
        for rows, first in parts:
            at = offset + first * rows.strides[0]
            if os.preadv(file, [rows.data], at) != rows.nbytes:
                raise OSError(f"{path}: ends early; delete it to encode it again")
    finally:
        os.close(file)
