"""`python -m invcap_ext.selfcheck` compares every CUDA kernel with float64 and times it.

Errors are relative to the largest element of the same operator's result on the CPU in float64.
Times are shown beside those of a peer: for a forward pass the dense layer
`leaky_relu(F.linear(x, W, b))`, which costs as many flops; for an inverse two calls of
`torch.linalg.solve_triangular`. Without a GPU it prints the reason and stops.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from invcap_ext import InvertibleNetwork, build_info

DEVICE = "cuda"
OPERATORS = torch.ops.invcap
SIZES = (384, 1024, 4096)
BATCHES = (1, 64, 1024, 65536)
# In float16 and bfloat16, h and intermediate gradients are rounded too.
TOLERANCES = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
ACCURACY_ROWS = 128  # rows of a batch that are compared with float64
SETTINGS = (0.9, 0.3)  # diagonal, negative slope
REPEATS = 20


@dataclass(frozen=True)
class Outcome:
    """One line of the table: relative error, median milliseconds of the kernel and its peer."""

    kernel: str
    n: int
    rows: int
    dtype: torch.dtype
    error: float
    kernel_ms: float
    peer_ms: float

    @property
    def sound(self) -> bool:
        return self.error <= TOLERANCES[self.dtype]

    def __str__(self) -> str:
        return (
            f"{self.kernel:<16} {str(self.dtype)[6:]:<8} {self.n:>5} {self.rows:>6}"
            f" {self.error:8.1e} {'ok' if self.sound else 'WRONG':<5}"
            f" {self.kernel_ms:9.3f} {self.peer_ms:9.3f} {self.peer_ms / self.kernel_ms:6.2f}"
        )


HEADER = (
    f"{'kernel':<16} {'dtype':<8} {'n':>5} {'rows':>6} {'error':>8} {'':<5}"
    f" {'ms':>9} {'peer ms':>9} {'ratio':>6}"
)


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


def merged_backward(p: Layer) -> Callable[[], object]:
    weight = torch.randn_like(p.lu)
    return lambda: (p.grad @ weight, p.grad.T @ p.x)


def two_solves(p: Layer) -> Callable[[], object]:
    wide = torch.promote_types(p.lu.dtype, torch.float32)
    scaled_identity = SETTINGS[0] * torch.eye(len(p.lu), device=DEVICE, dtype=wide)
    upper = p.lu.to(wide).triu(1) + scaled_identity
    lower = p.lu.to(wide).tril(-1) + scaled_identity
    z, solve = p.y.to(wide), torch.linalg.solve_triangular
    return lambda: solve(
        upper.T, solve(lower.T, z, upper=True, left=False), upper=False, left=False
    )


PEERS = {
    forward: merged,
    inverse: two_solves,
    backward: merged_backward,
    inverse_backward: two_solves,
}


def relative_error(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Returns the largest over all tensors; NaN counts as infinite."""
    errors = [
        (a.double().cpu() - b).abs().max() / b.abs().max().clamp_min(1e-30)
        for a, b in zip(found, expected, strict=True)
    ]
    return torch.stack(errors).nan_to_num(float("inf")).max().item()


def milliseconds(work: Callable[[], object]) -> float:
    """Returns the median over REPEATS runs, after three warm-up runs."""
    times = []
    for repeat in range(REPEATS + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def check_layers(dtype: torch.dtype) -> Iterator[Outcome]:
    """Checks every operation, size and batch."""
    for n in SIZES:
        for rows in BATCHES:
            if 16 * rows * n * dtype.itemsize > free_bytes():
                continue
            layer = Layer.draw(n, rows, dtype)
            few = layer.first_rows()
            exact = few.exact()
            for operation, peer in PEERS.items():
                yield Outcome(
                    operation.__name__, n, rows, dtype,
                    relative_error(operation(few), operation(exact)),
                    milliseconds(partial(operation, layer)),
                    milliseconds(peer(layer)),
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
            yield Outcome(name, n, rows, dtype, error, kernel_ms, milliseconds(peer))


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
    yield Outcome("squared error", size, images, dtype, error, kernel_ms, milliseconds(peer))


@torch.no_grad()
def check() -> bool:
    """Prints the table and returns whether every kernel is right."""
    sound = True
    for dtype, precision, title in (
        (torch.float32, "highest", "float32"),
        (torch.float32, "high", "float32 by three TF32 products; peers by one"),
        (torch.bfloat16, "highest", "bfloat16"),
        (torch.float16, "highest", "float16"),
        (torch.float64, "highest", "float64"),
    ):
        torch.set_float32_matmul_precision(precision)
        print(f"\n{title}\n{HEADER}")
        for checks in (check_layers, check_network, check_squared_error):
            for outcome in checks(dtype):
                print(outcome, flush=True)
                sound = sound and outcome.sound
    print("\nevery kernel agrees with float64" if sound else "\nsome kernel is WRONG")
    return sound


def main() -> int:
    """Returns 0 if every kernel is right or there is no GPU, else 1."""
    if build_info().cuda is None:
        print("invcap_ext was built for the CPU only: there is no CUDA kernel to check.")
        return 0
    if not torch.cuda.is_available():
        print("torch finds no GPU here: no CUDA kernel was run.")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {build_info().cuda}")
    return 0 if check() else 1


if __name__ == "__main__":
    sys.exit(main())
