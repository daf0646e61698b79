"""The table of `python -m invcap_ext.selfcheck`, on the CPU in place of a GPU."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

from invcap_ext import build_info, selfcheck


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(selfcheck, "DEVICE", "cpu")
    monkeypatch.setattr(selfcheck, "SIZES", (33, 64))
    monkeypatch.setattr(selfcheck, "BATCHES", (1, 200))
    monkeypatch.setattr(selfcheck, "milliseconds", milliseconds)
    monkeypatch.setattr(selfcheck, "free_bytes", lambda: 1 << 30)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_every_operation_of_every_dtype_is_right(capsys):
    assert selfcheck.check()
    lines = capsys.readouterr().out.splitlines()
    assert sum(" ok " in line for line in lines) == 5 * (2 * 2 * 4 + 2 * 2 + 1)


@pytest.mark.slow
@pytest.mark.parametrize("factor", (1.1, float("nan")))
def test_a_wrong_kernel_is_found(monkeypatch, capsys, factor):
    def forward(layer):
        y, h = selfcheck.forward(layer)
        return (y if y.dtype == torch.float64 else factor * y), h

    monkeypatch.setattr(selfcheck, "PEERS", {forward: selfcheck.merged})
    assert not selfcheck.check()
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    command = [sys.executable, "-m", "invcap_ext.selfcheck"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reason = "torch finds no GPU" if build_info().cuda else "built for the CPU only"
    assert reason in done.stdout
