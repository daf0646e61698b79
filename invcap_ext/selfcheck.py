"""`python -m invcap_ext.selfcheck`: every CUDA kernel against float64, and its time beside cuBLAS.

The yardstick of a forward pass is the merged dense layer, `leaky_relu(F.linear(x, W, b))`, which
costs as many flops; that of an inverse, two `torch.linalg.solve_triangular`. Errors are relative to
the largest element, against the same operator on the CPU in float64. Without a GPU this says so.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from invcap_ext import _C, InvertibleNetwork, build_info

SIZES = (384, 1024, 4096)
BATCHES = (1, 64, 1024, 65536)
MEMORY = 8 << 30  # bytes of a case, beyond which it is left out
# float16 and bfloat16 round h and gradients on their way, some units of their last place.
TOLERANCES = {
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
ACCURACY_ROWS = 128  # of a batch are compared with float64
DIAGONAL, SLOPE = 0.9, 0.3
REPEATS = 20


@dataclass(frozen=True)
class Problem:
    """One size, batch and dtype: a layer's tensors on the GPU, and its output."""

    x: Tensor
    y: Tensor
    h: Tensor
    grad: Tensor
    lu: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, n: int, rows: int, dtype: torch.dtype) -> "Problem":
        generator = torch.Generator("cuda").manual_seed(n + rows)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device="cuda").to(dtype)

        x, grad, bias = draw(rows, n), draw(rows, n), draw(n)
        lu = draw(n, n) * (0.5 / n**0.5)
        y, h = _C.lu_leaky(x, lu, bias, DIAGONAL, SLOPE)
        return cls(x, y, h, grad, lu, bias)

    def on_cpu(self) -> "Problem":
        """The first rows in float64, whose results on the CPU are what all others are held to."""
        wide = [a[:ACCURACY_ROWS].double().cpu() for a in (self.x, self.y, self.h, self.grad)]
        return Problem(*wide, self.lu.double().cpu(), self.bias.double().cpu())

    def first_rows(self) -> "Problem":
        rows = [a[:ACCURACY_ROWS].contiguous() for a in (self.x, self.y, self.h, self.grad)]
        return Problem(*rows, self.lu, self.bias)


def forward(p: Problem) -> tuple[Tensor, ...]:
    return _C.lu_leaky(p.x, p.lu, p.bias, DIAGONAL, SLOPE)


def inverse(p: Problem) -> tuple[Tensor, ...]:
    return _C.lu_leaky_inverse(p.y, p.lu, p.bias, DIAGONAL, SLOPE)


def backward(p: Problem) -> tuple[Tensor, ...]:
    return _C.lu_leaky_backward(p.grad, p.x, p.y, p.h, p.lu, DIAGONAL, SLOPE)


def inverse_backward(p: Problem) -> tuple[Tensor, ...]:
    return _C.lu_leaky_inverse_backward(p.grad, p.x, p.y, p.h, p.lu, DIAGONAL, SLOPE)


def merged(p: Problem) -> Callable[[], Tensor]:
    weight = torch.randn_like(p.lu)
    return lambda: F.leaky_relu(F.linear(p.x, weight, p.bias), SLOPE)


def merged_backward(p: Problem) -> Callable[[], Tensor]:
    weight = torch.randn_like(p.lu)
    return lambda: (p.grad @ weight, p.grad.T @ p.x)


def two_solves(p: Problem) -> Callable[[], Tensor]:
    wide = torch.promote_types(p.lu.dtype, torch.float32)
    scaled_identity = DIAGONAL * torch.eye(len(p.lu), device="cuda", dtype=wide)
    upper = p.lu.to(wide).triu(1) + scaled_identity
    lower = p.lu.to(wide).tril(-1) + scaled_identity
    z, solve = p.y.to(wide), torch.linalg.solve_triangular
    return lambda: solve(
        upper.T, solve(lower.T, z, upper=True, left=False), upper=False, left=False
    )


OPERATIONS = (
    (forward, merged),
    (inverse, two_solves),
    (backward, merged_backward),
    (inverse_backward, two_solves),
)


def relative_error(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    return max(
        ((a.double().cpu() - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()
        for a, b in zip(found, expected, strict=True)
    )


def milliseconds(work: Callable[[], object]) -> float:
    """Median over REPEATS runs, after three to warm up."""
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


def check_layers(dtype: torch.dtype) -> bool:
    """Prints a line for every operation, size and batch; returns whether all errors are small."""
    sound = True
    for n in SIZES:
        for rows in BATCHES:
            if 12 * rows * n * dtype.itemsize > MEMORY:
                continue
            problem = Problem.draw(n, rows, dtype)
            few, oracle = problem.first_rows(), problem.on_cpu()
            for operation, peer in OPERATIONS:
                error = relative_error(operation(few), operation(oracle))
                ours = milliseconds(lambda run=operation, p=problem: run(p))
                theirs = milliseconds(peer(problem))
                sound &= report(operation.__name__, n, rows, dtype, error, ours, theirs)
    return sound


def check_network(dtype: torch.dtype) -> bool:
    """The same for whole networks in one launch, beside one launch a layer."""
    sound = True
    net = InvertibleNetwork(384, 4, negative_slope=SLOPE, device="cuda", dtype=dtype)
    lu, bias = (
        [layer.lu.detach() for layer in net.layers],
        [layer.bias.detach() for layer in net.layers],
    )
    slopes = [layer.negative_slope for layer in net.layers]
    oracle = InvertibleNetwork(384, 4, negative_slope=SLOPE, dtype=torch.float64)
    oracle.load_state_dict(net.state_dict())
    for rows in BATCHES:
        x = torch.randn(rows, 384, device="cuda").to(dtype)
        for inverse, layered in ((False, net), (True, net.inverse)):
            expected = (oracle.inverse if inverse else oracle)(x[:ACCURACY_ROWS].double().cpu())

            def run(x=x, inverse=inverse) -> Tensor:
                return _C.lu_leaky_network(x, lu, bias, 1.0, slopes, inverse)

            error = relative_error((run()[:ACCURACY_ROWS],), (expected,))
            ours, theirs = milliseconds(run), milliseconds(lambda x=x, layered=layered: layered(x))
            name = "network inverse" if inverse else "network"
            sound &= report(name, 384, rows, dtype, error, ours, theirs)
    return sound


def check_squared_error(dtype: torch.dtype) -> bool:
    """The same for the loss of prompt inversion, beside torch's elementwise operators."""
    wide = torch.promote_types(dtype, torch.float32)
    predicted, noise = (torch.randn(64, 4 * 64 * 64, device="cuda").to(dtype) for _ in range(2))
    weight = torch.rand(64, device="cuda", dtype=wide)
    difference = predicted.double().cpu() - noise.double().cpu()
    wide_weight = weight.double().cpu()
    expected = (wide_weight * difference.square().sum(1), 2 * wide_weight[:, None] * difference)

    def peer() -> tuple[Tensor, Tensor]:
        difference = predicted.to(wide) - noise.to(wide)
        return weight * difference.square().sum(1), 2 * weight[:, None] * difference

    def run() -> tuple[Tensor, Tensor]:
        return _C.weighted_squared_error(predicted, noise, weight)

    error = relative_error(run(), expected)
    return report("squared_error", 16384, 64, dtype, error, milliseconds(run), milliseconds(peer))


def report(
    name: str, n: int, rows: int, dtype: torch.dtype, error: float, ours: float, theirs: float
) -> bool:
    sound = error <= TOLERANCES[dtype]
    verdict = "ok" if sound else "WRONG"
    print(
        f"{name:<17} {str(dtype)[6:]:<9} {n:>6} {rows:>6}  {error:8.1e} {verdict:<5}"
        f" {ours:9.3f} {theirs:9.3f} {theirs / ours:6.2f}"
    )
    return sound


@torch.no_grad()
def main() -> int:
    """Returns 0 where every kernel is right, or where there is no GPU to ask."""
    if build_info().cuda is None:
        print("invcap_ext was built for the CPU alone: there is no CUDA kernel to check.")
        return 0
    if not torch.cuda.is_available():
        print("torch finds no GPU here: no CUDA kernel was run.")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {build_info().cuda}")
    print("float32 is plain FFMA, then three TF32 products; the peer is float32 and TF32 as well")
    print(f"{'kernel':<17} {'dtype':<9} {'n':>6} {'rows':>6}  {'error':>8} {'':<5}", end="")
    print(f" {'ms':>9} {'peer ms':>9} {'ratio':>6}")
    sound = True
    for dtype, tf32 in (
        (torch.float32, False),
        (torch.float32, True),
        (torch.bfloat16, False),
        (torch.float16, False),
        (torch.float64, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        sound &= check_layers(dtype) and check_network(dtype) and check_squared_error(dtype)
    print("every kernel agrees with float64" if sound else "some kernel is WRONG")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
