"""Prints the tables of docs/cuda.md: floors on an H100, and predictions that nobody has measured.

    python benchmarks/cuda_predictions.py

The model is deliberately small: a kernel is launches, steps and traffic. A step is whatever takes
longest of arithmetic, shared memory and L2, and what a barrier costs; a kernel takes no less than
its bytes from memory, which depend on the order of its grid. Beside each prediction stands its
ratio to a dense layer by cuBLAS, predicted as plainly. The numbers stand below, one by one, so that
a measurement can say which of them is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

SIZES, BATCHES = (384, 1024, 4096), (1, 64, 1024, 8192, 65536)
PROCESSORS, CLOCK = 132, 1.7e9
HBM, HBM_REACHED = 3.35e12, 0.8  # bytes a second, and the part of them that streaming reaches
L2 = 24  # bytes a clock and processor, with all of them reading
L2_BYTES = 50e6 / 2  # a processor's half: what lies in the other half is copied into this one
SHARED_BYTES = 227 << 10
LAUNCH = 3e-6
SYNCHRONIZE = 10e-6  # until Python knows a number that a kernel found
BARRIER = 200  # clocks of a step for barrier, wait and addresses
BLOCK, DEPTH = 64, 32
# cuBLAS: the part of the peak that its tiles reach, by their sides, once they fill the chip.
DENSE_TILES = {(128, 256): 0.75, (128, 128): 0.65, (64, 64): 0.4}
FORMED_BLOCK = 1024  # of L U: csrc/dense.cpp
SOLVE_BLOCK = 128  # columns that cuBLAS solves at a time, by two kernels


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

    def step(self, rows: int, staged: int = 0) -> float:
        """Seconds; `staged`: elements that it reads beside its weights."""
        read = (DEPTH * BLOCK + staged) * self.bytes / L2
        return (max(self.clocks[rows], read) + BARRIER) / CLOCK

    def fits(self, rows: int, n: int) -> bool:
        stride = ceil(n / BLOCK) * BLOCK + 16 // self.tile_bytes
        weights = 3 * max(64 * (32 + 16 // self.tile_bytes), 32 * 72)
        return self.tile_bytes * (rows * stride + weights) <= SHARED_BYTES


# FFMA: 4 clocks of shared memory for each vector of a warp, R / 16 + 4 of them for 4 k.
# Tensor cores: a 4-byte read of a warp a clock; mma.sync at 60 % of the peak. Three TF32 products
# are bound by what a scheduler issues, an instruction a clock for its two warps: 6 for an operand
# that is read and split, 7 for each 16 x 8 x 8 of a product and its sums, 100 around them.
FFMA = Math("float32", 4, 4, 67e12, 1, {16: 1280, 64: 2048, 128: 3072})
TF32 = Math("three TF32", 4, 4, 495e12, 3, {16: 544, 64: 1000, 128: 1608})
BF16 = Math("bfloat16", 2, 2, 989e12, 1, {16: 96, 64: 200, 128: 400})
# Solves of bfloat16: three TF32 products on float32 tiles, weights converted on their way.
BF16_SOLVE = Math("bfloat16", 2, 4, 495e12, 3, {16: 644, 64: 1100, 128: 1708})
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


def moved(data: float) -> float:
    return data / (HBM * HBM_REACHED)


def streamed(data: float) -> float:
    return LAUNCH + moved(data)


def times_read(data: float, groups: float) -> float:
    """How often data comes from memory that `groups` of blocks read, one group after another."""
    return 1 if data <= L2_BYTES else max(groups, 1)


def fused(math: Math, n: int, rows: int, tile: int) -> float:
    weights = n * n * math.bytes
    tiles = ceil(rows / tile)
    data = 3 * rows * n * math.bytes + weights * times_read(weights, tiles / PROCESSORS)
    waves = ceil(tiles / PROCESSORS)
    return LAUNCH + max(waves * 2 * pass_steps(n) * math.step(tile), moved(data))


def trimmed(math: Math, n: int, rows: int) -> float:
    """A product out of place: blocks of a tile of rows start together, longest first."""
    column_blocks, steps = ceil(n / BLOCK), pass_steps(n)
    tall = ceil(rows / 128) * column_blocks >= PROCESSORS
    tile = 128 if tall else 16
    total = ceil(rows / tile) * steps
    # Two blocks a processor run at a time; their tiles of rows share what they read of the weights.
    groups = ceil(rows / tile) * column_blocks / (2 * PROCESSORS)
    weights = steps * DEPTH * BLOCK * math.bytes
    data = 2 * n * rows * math.bytes + weights * times_read(weights, groups)
    slots = max(total / PROCESSORS, 2 * column_blocks)
    return LAUNCH + max(slots * math.step(tile, tile * DEPTH), moved(data))


def product(math: Math, n: int, rows: int) -> float:
    """Two products: a layer forward, or the row-wise part of its backward."""
    if rows <= 4:
        return 2 * streamed(n * n * math.bytes / 2)
    if rows > 32 * PROCESSORS and math.fits(64, n):
        return fused(math, n, rows, 64)
    if n <= 256:
        return fused(math, n, rows, 16)
    return 2 * trimmed(math, n, rows)


def backward_product(math: Math, n: int, rows: int) -> float:
    """The same behind gz = m gy, which only a fused kernel has in it."""
    is_fused = rows > 32 * PROCESSORS and math.fits(64, n)
    return product(math, n, rows) + (0 if is_fused else streamed(3 * rows * n * math.bytes))


def solve(math: Math, n: int, rows: int) -> float:
    """Two solves, of weights that learn."""
    solves = solving(math)
    full = rows > 32 * PROCESSORS
    for tile, taken in ((64, full), (16, not full or n <= 512)):
        if taken and solves.fits(tile, n):
            return LAUNCH + 2e-6 + fused(solves, n, rows, tile)  # beside comparing the blocks
    return library_solve(math, n, rows)


def library_solve(math: Math, n: int, rows: int) -> float:
    """The same by cuBLAS in plain float32, beside L and U, the activation and a copy for each."""
    data = rows * n * 4
    casts = 3 * streamed(data * 1.5) if math.bytes == 2 else 0
    around = 2 * streamed(2 * data) + factors(FFMA, n) + casts
    chain = 2 * ceil(n / SOLVE_BLOCK) * LAUNCH
    work = max(rows * n * n / (FFMA.peak * DENSE_TILES[128, 128]), moved(3 * data))
    return around + 2 * (streamed(2 * data) + chain + work)


def weight_gradient(math: Math, n: int, rows: int) -> float:
    """Tiles of both triangles, slices added, bias gradient: four launches."""
    blocks = ceil(n / BLOCK)
    tiles = blocks * (blocks + 1)
    slices = min(max(rows // 128, 1), max(1, 256 // blocks**2))
    steps = ceil(rows / slices / DEPTH)
    waves = ceil(tiles * slices / PROCESSORS)
    # Both operands go through registers, one transposed: half as long again as a step of weights.
    work = waves * steps * 1.5 * math.step(64, BLOCK * DEPTH)
    # The block rows that run at a time share what they stream of h and x.
    operand = rows * n * math.bytes
    groups = tiles * slices / (2 * PROCESSORS)
    data = 2 * operand + 2 * operand * times_read(operand, groups)
    sums = streamed(slices * n * n * 4 * 2) + streamed(operand)
    return 2 * LAUNCH + max(work, moved(data)) + sums


def dense(math: Math, rows: int, columns: int, depth: int) -> float:
    """One product by cuBLAS in the tiles that suit it best; float32 on tensor cores is one TF32."""
    data = (rows * depth + depth * columns + rows * columns) * math.bytes
    if min(rows, depth) <= 4:
        return streamed(data)
    times = []
    for (high, wide), reached in DENSE_TILES.items():
        tiles = ceil(rows / high) * ceil(columns / wide)
        # Too few tiles to fill the chip are split along the depth, down to 256 each.
        parts = max(1, min(PROCESSORS // tiles, depth // 256))
        waves = ceil(tiles * parts / PROCESSORS)
        flops = waves * PROCESSORS * 2 * high * wide * depth / parts
        times.append(flops / (math.peak * reached))
    return LAUNCH + max(min(times), moved(data))


def dense_layer(math: Math, n: int, rows: int) -> float:
    """F.linear and leaky_relu, or the same with a kept inverse weight the other way round."""
    return dense(math, rows, n, n) + streamed(2 * rows * n * math.bytes)


def dense_backward(math: Math, n: int, rows: int) -> float:
    """Both gradients, gz and the sum for the bias."""
    products = dense(math, rows, n, n) + dense(math, n, n, rows)
    return products + streamed(3 * rows * n * math.bytes) + streamed(rows * n * math.bytes)


def factors(math: Math, n: int) -> float:
    """L and U, dense: each one triangle, and then its diagonal."""
    return 2 * (streamed(2 * n * n * math.bytes) + LAUNCH)


def blocks_of(n: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + FORMED_BLOCK, n)) for begin in range(0, n, FORMED_BLOCK)]


def formed(math: Math, n: int) -> float:
    """L U, from the blocks that are not zero (csrc/dense.cpp)."""
    total = factors(math, n)
    for begin, end in blocks_of(n):
        total += dense(math, end - begin, n - begin, end)
        if end < n:
            total += dense(math, n - end, end - begin, end)
    return total


def formed_gradient(math: Math, n: int) -> float:
    """glu from the gradient by L U: two products a block, and four steps to put them in place."""
    total = factors(math, n)
    for begin, end in blocks_of(n):
        rest, size = n - begin, end - begin
        total += dense(math, rest, size, rest) + dense(math, size, rest, rest)
        total += 3 * streamed(2 * size * size * math.bytes)
        total += streamed(2 * size * (n - end) * math.bytes)
    return total


def takes_dense(math: Math, n: int, rows: int) -> bool:
    """Whether a layer that learns takes the dense way, as csrc/route.cpp has it."""
    if math is TF32 or n < 256:
        return False
    return rows >= (16384 if n < 512 else 1024 if n <= 1024 else max(2048, n))


def keeps_inverse(math: Math) -> bool:
    """Whether a frozen layer goes back by a kept inverse, as csrc/route.cpp has it."""
    return math is not TF32


def forward(math: Math, n: int, rows: int) -> float:
    if takes_dense(math, n, rows):
        return formed(math, n) + dense_layer(math, n, rows)
    return product(math, n, rows)


def backward(math: Math, n: int, rows: int) -> float:
    if takes_dense(math, n, rows):
        signs = 3 * LAUNCH + streamed(2 * rows * n) + streamed(rows * n * math.bytes)
        return signs + formed_gradient(math, n) + dense_backward(math, n, rows)
    return backward_product(math, n, rows) + weight_gradient(math, n, rows)


def step(math: Math, n: int, rows: int) -> float:
    return forward(math, n, rows) + backward(math, n, rows)


def merged_inverse(math: Math, n: int, rows: int) -> float:
    """A dense layer, of which the bias and the inverse's diagonal are a pass of their own."""
    return dense_layer(math, n, rows) + streamed(2 * rows * n * math.bytes)


def frozen_inverse(math: Math, n: int, rows: int) -> float:
    """The same, once lu and bias have been compared with those that the inverse was found for."""
    if not keeps_inverse(math):
        return solve(math, n, rows)
    compared = 2 * (2 * LAUNCH + SYNCHRONIZE) + streamed(2 * n * n * math.bytes)
    return compared + merged_inverse(math, n, rows)


def inverse_backward(math: Math, n: int, rows: int) -> float:
    return solve(math, n, rows) + weight_gradient(math, n, rows)


def dense_step(math: Math, n: int, rows: int) -> float:
    return dense_layer(math, n, rows) + dense_backward(math, n, rows)


Prediction = Callable[[Math, int, int], float]
OPERATIONS: dict[str, tuple[Prediction, Prediction]] = {
    "forward": (forward, dense_layer),
    "backward": (backward, dense_backward),
    "step": (step, dense_step),
    "merged inverse": (merged_inverse, dense_layer),
    "frozen inverse": (frozen_inverse, dense_layer),
    "learning inverse": (solve, dense_layer),
    "inverse backward": (inverse_backward, dense_backward),
}


def microseconds(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def over_dense(ours: Prediction, cublas: Prediction) -> Callable[[Math, int, int], str]:
    """Our time, and how many times that of cuBLAS it is."""

    def cell(math: Math, n: int, rows: int) -> str:
        seconds, dense_seconds = ours(math, n, rows), cublas(math, n, rows)
        return f"{microseconds(seconds)} ({seconds / dense_seconds:.1f})"

    return cell


def print_table(title: str, cell: Callable[[Math, int, int], str]) -> None:
    print(f"| {title} | n | " + " | ".join(f"B = {rows}" for rows in BATCHES) + " |")
    print("| --- | --- |" + " --- |" * len(BATCHES))
    for math in MATHS:
        for n in SIZES:
            cells = " | ".join(cell(math, n, rows) for rows in BATCHES)
            print(f"| {math.name} | {n} | {cells} |")
    print()


def main() -> None:
    print_table("floor", lambda *a: microseconds(floor(*a)))
    for name, predictions in OPERATIONS.items():
        print_table(name, over_dense(*predictions))


if __name__ == "__main__":
    main()
