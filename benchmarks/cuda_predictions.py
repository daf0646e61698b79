"""Prints the tables of docs/cuda.md: floors on an H100, and predictions that nobody has measured.

    python benchmarks/cuda_predictions.py

The model is deliberately small: a kernel is launches and steps; a step is whatever takes longest of
arithmetic, shared memory and L2, and what a barrier costs. Its numbers stand below, one by one, so
that a measurement can say which of them is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

SIZES, BATCHES = (384, 1024, 4096), (1, 64, 1024, 65536)
PROCESSORS, CLOCK = 132, 1.7e9
HBM, HBM_REACHED = 3.35e12, 0.8  # bytes a second, and the part of them that streaming reaches
L2 = 24  # bytes a clock and processor, with all of them reading
SHARED_BYTES = 227 << 10
LAUNCH = 3e-6
BARRIER = 200  # clocks of a step for barrier, wait and addresses
BLOCK, DEPTH = 64, 32


@dataclass(frozen=True)
class Math:
    """One way of multiplying.

    Attributes:
        name: as in the tables.
        bytes: of an element in global memory.
        tile_bytes: of an element in shared memory.
        peak: flops a second.
        products: that one product takes.
        clocks: of arithmetic and shared memory in a step, by rows of the tile.
    """

    name: str
    bytes: int
    tile_bytes: int
    peak: float
    products: int
    clocks: dict[int, int]

    def step(self, rows: int) -> float:
        weights = DEPTH * BLOCK * self.bytes / L2
        return (max(self.clocks[rows], weights) + BARRIER) / CLOCK

    def fits(self, rows: int, n: int) -> bool:
        stride = ceil(n / BLOCK) * BLOCK + 16 // self.tile_bytes
        weights = 3 * max(64 * (32 + 16 // self.tile_bytes), 32 * 72)
        return self.tile_bytes * (rows * stride + weights) <= SHARED_BYTES


# FFMA: 4 clocks of shared memory for each vector of a warp, R / 16 + 4 of them for 4 k.
# Tensor cores: a 4-byte read of a warp a clock; mma.sync at 60 % of the peak.
FFMA = Math("float32", 4, 4, 67e12, 1, {16: 1280, 64: 2048, 128: 3072})
TF32 = Math("three TF32", 4, 4, 495e12, 3, {16: 250, 64: 700, 128: 1400})
BF16 = Math("bfloat16", 2, 2, 989e12, 1, {16: 96, 64: 200, 128: 400})
# Solves of bfloat16: three TF32 products on float32 tiles, weights converted on their way.
BF16_SOLVE = Math("bfloat16", 2, 4, 495e12, 3, {16: 350, 64: 800, 128: 1500})
MATHS = (FFMA, TF32, BF16)


def solving(math: Math) -> Math:
    return BF16_SOLVE if math is BF16 else math


def pass_steps(n: int) -> int:
    """Steps of one triangular pass over one tile of rows."""
    blocks = ceil(n / BLOCK)
    return blocks * (blocks + 1)


def floor(math: Math, n: int, rows: int) -> float:
    data = 3 * rows * n * math.bytes + n * n * math.bytes
    return max(data / HBM, 2 * rows * n * n * math.products / math.peak)


def streamed(data: float) -> float:
    return LAUNCH + data / (HBM * HBM_REACHED)


def fused(math: Math, n: int, rows: int, tile: int) -> float:
    waves = ceil(rows / tile / PROCESSORS)
    return LAUNCH + waves * 2 * pass_steps(n) * math.step(tile)


def trimmed(math: Math, n: int, rows: int, steps: int, longest: int, columns: int) -> float:
    tall = ceil(rows / 128) * ceil(columns / BLOCK) >= PROCESSORS
    tile = 128 if tall else 16
    total = ceil(rows / tile) * steps
    return LAUNCH + max(total / PROCESSORS, longest) * math.step(tile)


def product(math: Math, n: int, rows: int) -> float:
    """Two products: a layer forward, or the row-wise part of its backward."""
    if rows <= 4:
        return 2 * streamed(n * n * math.bytes / 2)
    if rows > 32 * PROCESSORS and math.fits(64, n):
        return fused(math, n, rows, 64)
    if n <= 256:
        return fused(math, n, rows, 16)
    return 2 * trimmed(math, n, rows, pass_steps(n), 2 * ceil(n / BLOCK), n)


def solve(math: Math, n: int, rows: int) -> float:
    """Two solves, beside the comparison of the diagonal blocks."""
    math = solving(math)
    blocks = LAUNCH + 2e-6
    full = rows > 32 * PROCESSORS
    for tile, taken in ((64, full), (16, not full)):
        if taken and math.fits(tile, n):
            return blocks + fused(math, n, rows, tile)
    width = 512
    windows = ceil(n / width)
    total = blocks + 2 * streamed(2 * rows * n * math.tile_bytes)
    for window in range(windows):
        waves = ceil(rows / 16 / PROCESSORS)
        total += 2 * (LAUNCH + waves * pass_steps(width) * math.step(16))
        if window:
            longest = 2 * window * width // BLOCK
            steps = longest * width // BLOCK
            total += 2 * trimmed(math, n, rows, steps, longest, width)
    return total


def weight_gradient(math: Math, n: int, rows: int) -> float:
    """Tiles of both triangles, slices added, bias gradient: four launches."""
    tiles = ceil(n / BLOCK) ** 2
    slices = min(max(rows // 128, 1), max(1, 256 // tiles))
    steps = ceil(rows / slices / DEPTH)
    waves = ceil(tiles * slices / PROCESSORS)
    # Both operands go through registers, one transposed: half as long again as a step of weights.
    return 4 * LAUNCH + waves * steps * 1.5 * math.step(64) + streamed(slices * n * n * 4 * 2)


OPERATIONS = {
    "forward": product,
    "inverse": solve,
    "backward": lambda *a: product(*a) + weight_gradient(*a),
    "inverse backward": lambda *a: solve(*a) + weight_gradient(*a),
}


def microseconds(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def print_table(title: str, predict: Callable[[Math, int, int], float]) -> None:
    print(f"| {title} | n | " + " | ".join(f"B = {rows}" for rows in BATCHES) + " |")
    print("| --- | --- |" + " --- |" * len(BATCHES))
    for math in MATHS:
        for n in SIZES:
            times = " | ".join(microseconds(predict(math, n, rows)) for rows in BATCHES)
            print(f"| {math.name} | {n} | {times} |")
    print()


if __name__ == "__main__":
    print_table("floor", floor)
    for name, operation in OPERATIONS.items():
        print_table(name, operation)
