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


def test_maps_are_let_go_before_they_fill_memory(accelerator, tmp_path, monkeypatch):
    rows = ShardRows(write(tmp_path, accelerator), "values")
    opened = []
    real = pa.memory_map
    monkeypatch.setattr(pa, "memory_map", lambda path: opened.append(path) or real(path))
    monkeypatch.setattr("invcap.data.shards.MOST_MAPPED", 100 * 2**16)
    expected = torch.arange(60.0).view(20, 3)
    for _ in range(20):
        assert torch.equal(rows[torch.arange(20)], expected)
    assert 3 <= len(opened) / 3 <= 5
