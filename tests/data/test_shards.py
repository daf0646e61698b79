import gc
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from invcap.data.shards import ChosenRows, ShardRows, blocks, numbers, read_column, write_shards

COUNT = 5000


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def table(part) -> pa.Table:
    values = np.stack([[3 * n, 3 * n + 1, 3 * n + 2] for n in part]).astype(np.float32)
    return pa.table({"values": numbers(values), "text": [str(n) for n in part]})


def write(folder, accelerator, encode=table, items=range(COUNT)) -> list:
    return write_shards(items, encode, folder, accelerator, "numbers")


@pytest.mark.parametrize("items", [range(COUNT), list(range(COUNT)), {n: n for n in range(COUNT)}])
def test_rows_come_back_in_the_order_that_is_asked_for(accelerator, tmp_path, items):
    paths = write(tmp_path, accelerator, items=items)
    rows = ShardRows(paths, "values")
    assert len(paths) == 3 and len(rows) == COUNT
    chosen = torch.tensor([4999, 0, 2048, 2047, 2047])
    assert torch.equal(rows[chosen], 3.0 * chosen[:, None] + torch.arange(3))
    assert torch.equal(ChosenRows(rows, chosen)[torch.tensor([2])], rows[torch.tensor([2048])])
    assert torch.equal(torch.cat(list(blocks(rows, 999))).flatten(), torch.arange(15_000.0))
    assert read_column(paths, "text") == [str(n) for n in range(COUNT)]


def test_a_run_that_was_killed_encodes_only_what_is_missing(accelerator, tmp_path):
    done = []

    def dies(part):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part[0])
        return table(part)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, accelerator, dies)
    (tmp_path / ".000002.arrow.1.tmp").write_bytes(b"half")
    again = []
    paths = write(tmp_path, accelerator, lambda part: again.append(part[0]) or table(part))
    assert done == [0, 2048] and again == [4096]
    assert len(ShardRows(paths, "values")) == COUNT
    write(tmp_path, accelerator, lambda part: pytest.fail("nothing is missing"))


def test_rows_in_use_map_nothing_into_memory(accelerator, tmp_path):
    rows = ShardRows(write(tmp_path, accelerator), "values")
    assert len(rows[torch.arange(20)]) == 20
    until = time.monotonic() + 5  # Arrow's threads may let go of it a little later
    while str(tmp_path) in Path("/proc/self/maps").read_text():
        gc.collect()
        assert time.monotonic() < until


def test_float16_rows_are_read_as_float32(accelerator, tmp_path):
    half = write(
        tmp_path / "half",
        accelerator,
        lambda part: pa.table({"values": numbers(np.array([[n, -n] for n in part], np.float16))}),
        range(10),
    )
    rows = ShardRows(half, "values")[torch.tensor([7, 2])]
    assert rows.dtype == torch.float32 and rows.tolist() == [[7, -7], [2, -2]]


def test_a_shard_that_became_shorter_is_named(accelerator, tmp_path):
    paths = write(tmp_path, accelerator)
    rows = ShardRows(paths, "values")
    os.truncate(paths[1], paths[1].stat().st_size // 2)
    with pytest.raises(OSError, match=f"{paths[1]}: ends early"):
        rows[torch.tensor([0, 4095])]
