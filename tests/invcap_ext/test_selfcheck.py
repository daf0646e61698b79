"""The table of `python -m invcap_ext.selfcheck`, on the CPU in place of a GPU."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

from invcap_ext import InvertibleLinear, build_info, lu_leaky_inverse, selfcheck
from invcap_ext._gpu_report import Outcome, recommendations
from invcap_ext._gpu_situations import check_situations
from invcap_ext._gpu_timing import per_round


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
def test_every_operation_of_every_dtype_is_right():
    report = selfcheck.check()
    assert report.sound
    assert len(report.outcomes) == 5 * (2 * 2 * 4 + 2 * 2 + 1)
    lines = report.block().splitlines()
    assert sum(" ok " in line for line in lines) == len(report.outcomes)
    assert lines[0] == lines[-1] == "```"
    assert "every kernel agrees with float64" in lines[1]
    assert report.situations["threads"] == report.situations["offset tensors"] == "ok"
    read = json.loads(report.json())
    assert read["sound"] and read["machine"]["torch"] == torch.__version__
    assert {one["arithmetic"] for one in read["outcomes"]} == {
        *("float32", "tf32x3", "bfloat16", "float16", "float64")
    }


@pytest.mark.slow
@pytest.mark.parametrize("factor", (1.1, float("nan")))
def test_a_wrong_kernel_is_found(monkeypatch, factor):
    def forward(layer):
        y, h = selfcheck.forward(layer)
        return (y if y.dtype == torch.float64 else factor * y), h

    monkeypatch.setattr(selfcheck, "PEERS", {forward: (selfcheck.merged, None)})
    report = selfcheck.check()
    assert not report.sound
    assert " WRONG " in report.block()


@pytest.mark.parametrize("situation", ("threads", "offset tensors"))
def test_a_wrong_situation_is_found(monkeypatch, situation):
    calls = itertools.count()

    def inverse(layer, y):
        x = lu_leaky_inverse(y, layer.lu, layer.bias, layer.diagonal, layer.negative_slope)
        wrong = layer.lu.data_ptr() % 16 or (next(calls) > 4 and situation == "threads")
        return 1.1 * x if wrong else x

    monkeypatch.setattr(InvertibleLinear, "inverse", inverse)
    assert check_situations("cpu")[situation].startswith("WRONG: AssertionError: ")


def test_a_time_is_the_difference_of_rounds_with_and_without_the_work():
    assert per_round([50.0, 41.0, 40.0], [1.0, 2.0, 90.0], rounds=3) == pytest.approx(13)
    assert per_round([1.0], [1.1], rounds=20) > 0


def test_the_recommended_threshold_is_where_the_dense_product_stays_faster():
    def outcome(kernel, rows, kernel_ms, formed_ms):
        return Outcome(kernel, 384, rows, "float32", 0.0, True, kernel_ms, 1.0, formed_ms)

    found = recommendations(
        [
            *(
                outcome("forward", rows, ms, 2.0)
                for rows, ms in ((64, 9), (1, 3), (8, 1), (512, 4))
            ),
            outcome("inverse", 1, 1.0, 2.0),
            outcome("backward", 1, 1.0, None),
        ]
    )
    assert [(one.kernel, one.dense_from, one.timed) for one in found] == [
        ("forward", 64, (1, 8, 64, 512)),
        ("inverse", None, (1,)),
    ]
    assert str(found[0]) == "forward, float32, n = 384: dense from 64 rows on (of 1, 8, 64, 512)"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_printed():
    command = [sys.executable, "-m", "invcap_ext.selfcheck"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reason = "torch finds no GPU" if build_info().cuda else "built for the CPU only"
    assert reason in done.stdout
