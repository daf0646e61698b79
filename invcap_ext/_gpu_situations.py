"""Special ways to call a layer, such as from threads: each must give the usual result."""

import subprocess
import sys
from collections.abc import Callable
from threading import Thread

import torch
from torch import Tensor

from invcap_ext.layers import InvertibleLinear

SIZES = (64, 384, 1024)
ROWS = 40
ROUNDS = 30
TOLERANCE = 1e-4  # of a round trip, relative to the largest element

CAPTURED_FIRST = """
import torch
from invcap_ext import InvertibleLinear
layer = InvertibleLinear(384, device="cuda").requires_grad_(False)
x, graph = torch.randn(40, 384, device="cuda"), torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    back = layer.inverse(layer(x))
graph.replay()
assert (back - x).abs().max() <= 1e-4 * x.abs().max(), "the round trip is wrong"
"""


class NotRunError(Exception):
    """A situation cannot be tested on this machine; the message gives the reason."""


def _layer(n: int, device: str) -> InvertibleLinear:
    layer = InvertibleLinear(n, negative_slope=0.3, device=device).requires_grad_(False)
    layer.lu.copy_(torch.randn(n, n, device=device) * (0.5 / n**0.5))
    assert layer.bias is not None
    layer.bias.copy_(torch.randn(n, device=device))
    return layer


def _check_near(what: str, found: Tensor, expected: Tensor) -> None:
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE:
        raise AssertionError(f"{what} is wrong by {error:.1e} of the largest element")


def _check_round_trip(layer: InvertibleLinear, x: Tensor) -> Tensor:
    y = layer(x)
    _check_near("the round trip", layer.inverse(y), x)
    return y


def second_device(device: str) -> None:
    """A layer on a device that is not the current one, between calls on the current one."""
    if not device.startswith("cuda") or torch.cuda.device_count() < 2:
        raise NotRunError("there is one device")
    here, there = _layer(384, "cuda:0"), _layer(384, "cuda:1")
    there.load_state_dict(here.state_dict())
    x = torch.randn(ROWS, 384, device="cuda:0")
    for _ in range(ROUNDS):
        _check_near("the second device", _check_round_trip(there, x.to("cuda:1")).to("cuda:0"),
                    _check_round_trip(here, x))  # fmt: skip


def threads(device: str) -> None:
    """A thread for each size, all launching at once: the results are bit for bit the usual ones."""
    layers = [_layer(n, device) for n in SIZES]
    rows = [torch.randn(ROWS, n, device=device) for n in SIZES]
    expected = [layer.inverse(x) for layer, x in zip(layers, rows, strict=True)]
    wrong: list[str] = []

    @torch.no_grad()
    def work(layer: InvertibleLinear, x: Tensor, alone: Tensor) -> None:
        try:
            for _ in range(ROUNDS):
                if not torch.equal(layer.inverse(x), alone):
                    raise AssertionError("the result differs from that of a thread alone")
        except Exception as error:  # a thread's error is this situation's
            wrong.append(f"n = {layer.features}: {error}")

    running = [Thread(target=work, args=each) for each in zip(layers, rows, expected, strict=True)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if wrong:
        raise AssertionError(wrong[0])


def offset_tensors(device: str) -> None:
    """Rows, lu and bias that start one element after a 16-byte boundary."""
    layer = _layer(384, device)
    x = torch.randn(ROWS, 384, device=device)
    expected = _check_round_trip(layer, x)

    def moved(tensor: Tensor) -> Tensor:
        storage = torch.empty(tensor.numel() + 1, device=device)
        return storage[1:].view(tensor.shape).copy_(tensor)

    assert layer.bias is not None
    layer.lu.data, layer.bias.data = moved(layer.lu), moved(layer.bias)
    _check_near("the offset layer", _check_round_trip(layer, moved(x)), expected)


def capture_before_first_use(device: str) -> None:
    """In a new process, the first launch of every kernel is captured in a graph."""
    if not device.startswith("cuda"):
        raise NotRunError("graphs are captured on a GPU")
    done = subprocess.run([sys.executable, "-c", CAPTURED_FIRST], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr.strip().splitlines()[-1])


def reduce_overhead(device: str) -> None:
    """torch.compile(mode="reduce-overhead"), which keeps graphs, while weights change."""
    if not device.startswith("cuda"):
        raise NotRunError("graphs are captured on a GPU")
    layer = _layer(384, device)
    x = torch.randn(ROWS, 384, device=device)
    compiled = torch.compile(lambda x: layer.inverse(layer(x)), mode="reduce-overhead")
    for _ in range(ROUNDS):
        _check_near("the compiled round trip", compiled(x).clone(), x)
        layer.lu.mul_(0.97)
        torch.empty(1 << 24, device=device).fill_(float("nan"))  # overwrites freed memory


SITUATIONS: tuple[Callable[[str], None], ...] = (
    second_device,
    threads,
    offset_tensors,
    capture_before_first_use,
    reduce_overhead,
)


@torch.no_grad()
def check_situations(device: str) -> dict[str, str]:
    """Returns "ok", "not run: ..." or "WRONG: ..." for each situation, by its name."""
    found = {}
    for situation in SITUATIONS:
        name = situation.__name__.replace("_", " ")
        try:
            situation(device)
            found[name] = "ok"
        except NotRunError as reason:
            found[name] = f"not run: {reason}"
        except Exception as error:  # any failure is reported
            message = str(error).strip().splitlines() or [""]
            found[name] = f"WRONG: {type(error).__name__}: {message[0]}"
    return found
