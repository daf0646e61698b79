"""Times of the invertible layer beside `nn.Linear` + leaky ReLU, as a table.

    python benchmarks/layer_table.py        (--help for other sizes, dtypes and ways)

Ratios of medians of calls taken in turns in one process. A frozen layer may keep its inverse from
call to call; merged layers are frozen ones as plain dense layers.
"""

import copy
import itertools
from contextlib import nullcontext
from typing import Annotated

import torch
import typer
from timing import SLOPE, dense_layers, median_seconds, step, value

from invcap_ext import InvertibleNetwork, route

SIZES, BATCHES = "384,768,1024,2048", "1,32,256,2048,8192"
COLUMNS = ("forward", "inverse", "step", "frozen inverse", "merged forward", "merged inverse")


def ratios(n: int, rows: int, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Ratios to a dense layer's times, and `us`, its forward pass in microseconds."""
    torch.manual_seed(0)
    network = InvertibleNetwork(n, 2, negative_slope=SLOPE, dtype=dtype)
    first = network.layers[0]
    merged = network.merged().layers[0]
    frozen = copy.deepcopy(first).requires_grad_(False)
    dense = dense_layers(n, dtype=dtype)
    x = torch.randn(rows, n).to(dtype)
    # In this order, no call finds its matrix in the cache from the call before.
    calls = {
        "dense": value(dense, x),
        "inverse": value(first.inverse, x),
        "merged forward": value(merged, x),
        "frozen inverse": value(frozen.inverse, x),
        "dense again": value(dense, x),
        "forward": value(first, x),
        "merged inverse": value(merged.inverse, x),
        "dense step": step(dense, list(dense.parameters()), x),
        "step": step(first, list(first.parameters()), x),
    }
    once = sum(median_seconds(calls, rounds=1, warm_up=2).values())
    rounds = min(300, max(5, int(seconds / once)))
    found = median_seconds(calls, rounds=rounds, warm_up=1)
    yardstick = (found["dense"] + found["dense again"]) / 2
    shown = {name: found[name] / yardstick for name in COLUMNS}
    shown["step"] = found["step"] / found["dense step"]
    return shown | {"us": 1e6 * yardstick}


def main(
    n: Annotated[str, typer.Option(help="Sizes of rows.")] = SIZES,
    rows: Annotated[str, typer.Option(help="Batches.")] = BATCHES,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    way: Annotated[str | None, typer.Option(help="dense, fused or tiles; else as chosen.")] = None,
    seconds: Annotated[float, typer.Option(help="For each line.")] = 6.0,
) -> None:
    """Prints one line for each size and batch."""
    cpu = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {cpu}, {dtype}\n")
    print(f"| n | rows | {' | '.join(COLUMNS)} | dense us |")
    print("| --- " * (len(COLUMNS) + 3) + "|")
    with nullcontext() if way is None else route(way):
        for size, batch in itertools.product(map(int, n.split(",")), map(int, rows.split(","))):
            found = ratios(size, batch, getattr(torch, dtype), seconds)
            cells = " | ".join(f"{found[name]:.2f}" for name in COLUMNS)
            print(f"| {size} | {batch} | {cells} | {found['us']:.0f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
