"""`python -m invcap_ext.selfcheck` compares every CUDA kernel with float64 and times it.

It prints one block to paste into a report, or JSON with --json; progress goes to standard error.

Errors are relative to the largest element of the same operator's result on the CPU in float64.
Times are those of GPU work with a cold L2 cache (`_gpu_timing`). A kernel has up to two peers: a
dense layer with a stored weight, or inverse (`leaky_relu(F.linear(x, W, b))`), and one that
computes its weight from L and U at each call. Without a GPU it prints the reason and stops.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from invcap_ext import InvertibleNetwork, build_info, route
from invcap_ext._gpu_report import Outcome, Report, recommendations
from invcap_ext._gpu_situations import check_situations
from invcap_ext._gpu_timing import milliseconds
from invcap_ext.functional import factors

DEVICE = "cuda"
OPERATORS = torch.ops.invcap
SIZES = (384, 1024, 4096)
BATCHES = (1, 64, 1024, 65536)
# Large for float16 and bfloat16, which also round h and intermediate gradients.
TOLERANCES = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
ACCURACY_ROWS = 128  # rows of a batch that are compared with float64
SETTINGS = (0.9, 0.3)  # diagonal, negative slope


@dataclass(frozen=True)
class Layer:
    """One layer's tensors: rows x, y, h and grad (rows, n), lu (n, n), bias (n,)."""

    x: Tensor
    y: Tensor
    h: Tensor
    grad: Tensor
    lu: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, n: int, rows: int, dtype: torch.dtype) -> "Layer":
        generator = torch.Generator(DEVICE).manual_seed(n + rows)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=DEVICE).to(dtype)

        x, grad, lu, bias = draw(rows, n), draw(rows, n), draw(n, n) * (0.5 / n**0.5), draw(n)
        with route("tiles"):
            y, h = OPERATORS.lu_leaky(x, lu, bias, *SETTINGS)
        return cls(x, y, h, grad, lu, bias)

    def first_rows(self) -> "Layer":
        x, y, h, grad = (a[:ACCURACY_ROWS] for a in (self.x, self.y, self.h, self.grad))
        return Layer(x, y, h, grad, self.lu, self.bias)

    def exact(self) -> "Layer":
        """The same tensors on the CPU in float64."""
        tensors = (self.x, self.y, self.h, self.grad, self.lu, self.bias)
        return Layer(*(a.double().cpu() for a in tensors))


def forward(p: Layer) -> tuple[Tensor, ...]:
    return OPERATORS.lu_leaky(p.x, p.lu, p.bias, *SETTINGS)


def inverse(p: Layer) -> tuple[Tensor, ...]:
    return OPERATORS.lu_leaky_inverse(p.y, p.lu, p.bias, *SETTINGS)


def backward(p: Layer) -> tuple[Tensor, ...]:
    return OPERATORS.lu_leaky_backward(p.grad, p.x, p.y, p.h, p.lu, *SETTINGS)


def inverse_backward(p: Layer) -> tuple[Tensor, ...]:
    return OPERATORS.lu_leaky_inverse_backward(p.grad, p.x, p.y, p.h, p.lu, *SETTINGS)


def merged(p: Layer) -> Callable[[], object]:
    weight = torch.randn_like(p.lu)
    return lambda: F.leaky_relu(F.linear(p.x, weight, p.bias), SETTINGS[1])


def merged_inverse(p: Layer) -> Callable[[], object]:
    inverse_weight = torch.randn_like(p.lu)
    return lambda: F.linear(F.leaky_relu(p.y, 1 / SETTINGS[1]) - p.bias, inverse_weight)


def merged_backward(p: Layer) -> Callable[[], object]:
    weight = torch.randn_like(p.lu)
    return lambda: (p.grad @ weight, p.grad.T @ p.x)


def wide_factors(p: Layer) -> tuple[Tensor, Tensor]:
    """L and U in the dtype that torch can solve with."""
    return factors(p.lu.to(torch.promote_types(p.lu.dtype, torch.float32)), SETTINGS[0])


def formed(p: Layer) -> Callable[[], object]:
    def run() -> Tensor:
        lower, upper = wide_factors(p)
        return F.leaky_relu(F.linear(p.x, (lower @ upper).to(p.x.dtype), p.bias), SETTINGS[1])

    return run


def formed_inverse(p: Layer) -> Callable[[], object]:
    def run() -> Tensor:
        lower, upper = wide_factors(p)
        z = F.leaky_relu(p.y, 1 / SETTINGS[1]) - p.bias
        solve = torch.linalg.solve_triangular
        identity = torch.eye(len(lower), device=lower.device, dtype=lower.dtype)
        inverse_weight = solve(upper, solve(lower, identity, upper=False), upper=True)
        return F.linear(z, inverse_weight.to(z.dtype))

    return run


# Each operation's dense peer with a stored weight, and the peer that computes it at each call.
PEERS = {
    forward: (merged, formed),
    inverse: (merged_inverse, formed_inverse),
    backward: (merged_backward, None),
    inverse_backward: (merged_backward, None),
}


def relative_error(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Returns the largest over all tensors; NaN counts as infinite."""
    errors = [
        (a.double().cpu() - b).abs().max() / b.abs().max().clamp_min(1e-30)
        for a, b in zip(found, expected, strict=True)
    ]
    return torch.stack(errors).nan_to_num(float("inf")).max().item()


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def outcome(
    kernel: str, n: int, rows: int, dtype: torch.dtype, error: float,
    kernel_ms: float, peer_ms: float, formed_ms: float | None = None,
) -> Outcome:  # fmt: skip
    arithmetic = str(dtype).removeprefix("torch.")
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "high":
        arithmetic = "tf32x3"
    sound = error <= TOLERANCES[dtype]
    return Outcome(kernel, n, rows, arithmetic, error, sound, kernel_ms, peer_ms, formed_ms)


def check_layers(dtype: torch.dtype) -> Iterator[Outcome]:
    """Checks every operation, size and batch."""
    for n in SIZES:
        for rows in BATCHES:
            if 16 * rows * n * dtype.itemsize > free_bytes():
                continue
            layer = Layer.draw(n, rows, dtype)
            few = layer.first_rows()
            exact = few.exact()
            for operation, (peer, remade) in PEERS.items():
                yield outcome(
                    operation.__name__, n, rows, dtype,
                    relative_error(operation(few), operation(exact)),
                    milliseconds(partial(operation, layer)),
                    milliseconds(peer(layer)),
                    None if remade is None else milliseconds(remade(layer)),
                )  # fmt: skip


def check_network(dtype: torch.dtype) -> Iterator[Outcome]:
    """Checks a whole network in one launch; its peer runs one layer after another."""
    n, depth = 384, 4
    network = InvertibleNetwork(n, depth, negative_slope=0.3, device=DEVICE, dtype=dtype)
    exact = InvertibleNetwork(n, depth, negative_slope=0.3, dtype=torch.float64)
    exact.load_state_dict(network.state_dict())
    layers = network.layers
    for rows in BATCHES:
        x = torch.randn(rows, n, device=DEVICE).to(dtype)
        few = x[:ACCURACY_ROWS].double().cpu()

        def layered(x: Tensor = x) -> None:
            for layer in layers:
                x = layer(x)

        def layered_inverse(y: Tensor = x) -> None:
            for layer in reversed(layers):
                y = layer.inverse(y)

        for name, run, expected, peer in (
            ("network", network, exact(few), layered),
            ("network inverse", network.inverse, exact.inverse(few), layered_inverse),
        ):
            error = relative_error((run(x)[:ACCURACY_ROWS],), (expected,))
            kernel_ms = milliseconds(partial(run, x))
            yield outcome(name, n, rows, dtype, error, kernel_ms, milliseconds(peer))


def check_squared_error(dtype: torch.dtype) -> Iterator[Outcome]:
    """Checks the loss of prompt inversion; its peer is torch's elementwise operators."""
    size, images = 4 * 64 * 64, 64
    wide = torch.promote_types(dtype, torch.float32)
    predicted, noise = (torch.randn(images, size, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.rand(images, device=DEVICE, dtype=wide)
    arguments = (predicted, noise, weight)

    def peer() -> tuple[Tensor, Tensor]:
        difference = predicted.to(wide) - noise.to(wide)
        return weight * difference.square().sum(1), 2 * weight[:, None] * difference

    exact = OPERATORS.weighted_squared_error(*(a.double().cpu() for a in arguments))
    error = relative_error(OPERATORS.weighted_squared_error(*arguments), exact)
    kernel_ms = milliseconds(lambda: OPERATORS.weighted_squared_error(*arguments))
    yield outcome("squared error", size, images, dtype, error, kernel_ms, milliseconds(peer))


@torch.no_grad()
def check() -> Report:
    """Checks and times everything; each outcome goes to standard error as it is found."""
    found: list[Outcome] = []
    for dtype, precision in (
        (torch.float32, "highest"),
        (torch.float32, "high"),  # three TF32 products; the peers use one
        (torch.bfloat16, "highest"),
        (torch.float16, "highest"),
        (torch.float64, "highest"),
    ):
        torch.set_float32_matmul_precision(precision)
        for checks in (check_layers, check_network, check_squared_error):
            with route("tiles"):  # our own kernels, even where dense products would be chosen
                for one in checks(dtype):
                    print(one, file=sys.stderr, flush=True)
                    found.append(one)
    torch.set_float32_matmul_precision("highest")
    return Report(machine(), found, check_situations(DEVICE), recommendations(found))


def machine() -> dict[str, str | int]:
    """The device and the versions, on which the results depend."""
    versions: dict[str, str | int] = {
        "torch": torch.__version__,
        "kernels' CUDA": str(build_info().cuda),
    }
    if DEVICE != "cuda":
        return {"device": DEVICE} | versions
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": device.name,
        **versions,
        "compute capability": f"{device.major}.{device.minor}",
        "processors": device.multi_processor_count,
        "L2 bytes": device.L2_cache_size,
        "memory bytes": device.total_memory,
    }


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 if every kernel is right or there is no GPU, else 1."""
    parser = argparse.ArgumentParser("python -m invcap_ext.selfcheck", description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print JSON in place of the block.")
    options = parser.parse_args(arguments)
    if build_info().cuda is None:
        print("invcap_ext was built for the CPU only: there is no CUDA kernel to check.")
        return 0
    if not torch.cuda.is_available():
        print("torch finds no GPU here: no CUDA kernel was run.")
        return 0
    report = check()
    print(report.json() if options.json else report.block())
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
