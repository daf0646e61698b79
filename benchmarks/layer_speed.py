"""The invertible layer on a CPU beside dense layers, the micro-kernels' limit and other libraries.

    make bench        or        python benchmarks/layer_speed.py --output docs/layer_speed

Every figure is a ratio to `nn.Linear` + leaky ReLU of the same n and batch: medians of calls taken
in turns in one process, in float32 unless said otherwise. nflows, normflows and zuko are used
through their public interfaces.
"""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from nflows.transforms.lu import LULinear
from normflows.flows.mixing import InvertibleAffine
from timing import SLOPE, Call, dense_layers, median_seconds, step, value
from torch import Tensor, nn
from torch.utils.cpp_extension import load
from tqdm import tqdm
from zuko.transforms import LULinearTransform

from invcap.figures import write_figure
from invcap.files import write_json, write_text
from invcap_ext import InvertibleLinear, InvertibleNetwork

SIZES, BATCHES = (384, 768, 1024, 2048), (1, 32, 256, 2048)
NETWORKS = ((768, 256), (1024, 256), (1024, 2048))
PEER_SIZES, PEER_BATCHES = (384, 1024), (32, 256)
GROWN = {
    "n": (64, 128, 256, 512, 1024, 2048, 4096),
    "batch": (1, 16, 256, 4096, 65536),
    "depth": (1, 2, 4, 8, 16, 32),
}
# In bfloat16. Dense layers take seconds there on a processor without instructions for it.
HALVES = ((1024, 256), (2048, 256))
SECONDS = 4.0
MEMORY_SIZE, MEMORY_BATCH, DEPTH = 1024, 4096, 8

Times = dict[str, float]


def times(calls: dict[str, Call]) -> Times:
    """Medians of as many rounds as fit into SECONDS, at least 3."""
    once = sum(median_seconds(calls, rounds=1, warm_up=1).values())
    return median_seconds(calls, rounds=min(300, max(3, int(SECONDS / once))), warm_up=1)


def cell(n: int, batch: int, best: Callable | None, dtype: torch.dtype = torch.float32) -> Times:
    """Ratios of one layer; `best` is the dense product on the micro-kernels."""
    torch.manual_seed(0)
    layer = InvertibleLinear(n, negative_slope=SLOPE, dtype=dtype)
    dense = dense_layers(n, dtype=dtype)
    rows = torch.randn(batch, n).to(dtype)
    calls = {
        "dense forward": value(dense, rows),
        "forward": value(layer, rows),
        "dense again": value(dense, rows),
        "inverse": value(layer.inverse, rows),
        "dense step": step(dense, list(dense.parameters()), rows),
        "step": step(layer, list(layer.parameters()), rows),
    }
    if best is not None:
        weight = layer.weight.detach()
        calls["limit"] = value(lambda x: best(x, weight), rows)
    seconds = times(calls)
    forward = (seconds["dense forward"] + seconds["dense again"]) / 2
    found = {name: seconds[name] / forward for name in ("forward", "inverse")}
    found["step"] = seconds["step"] / seconds["dense step"]
    if best is not None:
        found["forward over limit"] = seconds["forward"] / seconds["limit"]
        found["inverse over limit"] = seconds["inverse"] / seconds["limit"]
    found["dense forward us"] = 1e6 * forward
    return found


def network(n: int, batch: int) -> Times:
    """Ratios of a step of 8 layers to the plain network's, with both ways to keep activations."""
    rows = torch.randn(batch, n)
    dense = dense_layers(n, DEPTH)
    calls = {"dense": step(dense, list(dense.parameters()), rows)}
    for activations in ("store", "recompute"):
        module = InvertibleNetwork(n, DEPTH, SLOPE, activations=activations)
        calls[activations] = step(module, list(module.parameters()), rows)
    seconds = times(calls)
    return {name: seconds[name] / seconds["dense"] for name in ("store", "recompute")}


def peers(n: int, batch: int) -> dict[str, Times]:
    """Ratios of other libraries' LU layers, of plain torch and of the paper's formulation."""
    torch.manual_seed(0)
    rows = torch.randn(batch, n)
    lu = nn.Parameter(torch.randn(n, n) / n)
    unit = torch.eye(n)
    solve = torch.linalg.solve_triangular

    def factors() -> tuple[Tensor, Tensor]:
        return lu.tril(-1) + unit, lu.triu(1) + unit

    def plain(x: Tensor) -> Tensor:
        lower, upper = factors()
        return nn.functional.linear(nn.functional.linear(x, upper), lower)

    def plain_inverse(y: Tensor) -> Tensor:
        lower, upper = factors()
        return solve(upper, solve(lower, y.T, upper=False), upper=True).T

    def merged(x: Tensor) -> Tensor:
        lower, upper = factors()
        return nn.functional.linear(x, lower @ upper)

    cached = torch.linalg.inv((factors()[0] @ factors()[1]).detach())
    nflow, normflow = LULinear(n), InvertibleAffine(n)
    entries: dict[str, tuple[Callable, Callable, list[Tensor]]] = {
        "nflows LULinear": (
            lambda x: nflow(x)[0],
            lambda y: nflow.inverse(y)[0],
            list(nflow.parameters()),
        ),
        "normflows InvertibleAffine": (
            lambda x: normflow(x)[0],
            lambda y: normflow.inverse(y)[0],
            list(normflow.parameters()),
        ),
        "zuko LULinearTransform": (
            lambda x: LULinearTransform(lu)(x),
            lambda y: LULinearTransform(lu).inv(y),
            [lu],
        ),
        "torch, two triangles": (plain, plain_inverse, [lu]),
        "the paper's W = L U, with its inverse kept": (
            merged,
            lambda y: nn.functional.linear(y, cached),
            [lu],
        ),
    }
    dense = dense_layers(n)
    yardstick = {
        "forward": value(dense, rows),
        "step": step(dense, list(dense.parameters()), rows),
    }
    found = {}
    for name, (forward, inverse, leaves) in entries.items():
        seconds = times(
            {f"dense {key}": call for key, call in yardstick.items()}
            | {
                "forward": value(forward, rows),
                "inverse": value(inverse, rows),
                "step": step(forward, leaves, rows),
            }
        )
        found[name] = {
            "forward": seconds["forward"] / seconds["dense forward"],
            "inverse": seconds["inverse"] / seconds["dense forward"],
            "step": seconds["step"] / seconds["dense step"],
        }
    return found


def growth() -> dict[str, dict[int, float]]:
    """Seconds of a step over n (batch 256), batch (n = 512) and depth (n = 256, batch 256)."""

    def seconds(n: int, batch: int, depth: int) -> float:
        module = InvertibleNetwork(n, depth, SLOPE)
        call = step(module, list(module.parameters()), torch.randn(batch, n))
        return times({"step": call})["step"]

    return {
        "n": {n: seconds(n, 256, 1) for n in GROWN["n"]},
        "batch": {batch: seconds(512, batch, 1) for batch in GROWN["batch"]},
        "depth": {depth: seconds(256, 256, depth) for depth in GROWN["depth"]},
    }


def slopes(grown: dict[str, dict[int, float]]) -> dict[str, float]:
    """Exponents of the cost's growth, from the last three points of each series."""
    return {
        name: float(np.polyfit(*np.log([[*points][-3:], [*points.values()][-3:]]), 1)[0])
        for name, points in grown.items()
    }


def errors(n: int, batch: int) -> dict[str, float]:
    """Errors against float64, as multiples of a dense layer's and of `solve_triangular`'s."""
    torch.manual_seed(0)
    layer = InvertibleLinear(n, negative_slope=1.0, bias=False)
    torch.nn.init.normal_(layer.lu, std=0.5 / n**0.5)
    exact = copy.deepcopy(layer).double()
    rows = torch.randn(batch, n)
    unit = torch.eye(n)
    with torch.no_grad():
        lower, upper = layer.lu.tril(-1) + unit, layer.lu.triu(1) + unit
        weight = exact.weight.float()
        forward, back = exact(rows.double()), exact.inverse(rows.double())
        solved = torch.linalg.solve_triangular(lower, rows.T, upper=False)
        solved = torch.linalg.solve_triangular(upper, solved, upper=True).T

        def ratio(ours: Tensor, theirs: Tensor, right: Tensor) -> float:
            return ((ours - right).norm() / (theirs - right).norm()).item()

        return {
            "forward": ratio(layer(rows), nn.functional.linear(rows, weight), forward),
            "inverse": ratio(layer.inverse(rows), solved, back),
        }


def peak_resident() -> int:
    """Peak memory in bytes; unlike `getrusage`'s, without that of the parent process."""
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(peak)


def peak_memory(kind: str) -> int:
    """Bytes that a training step adds to this process at its peak."""
    rows = torch.randn(MEMORY_BATCH, MEMORY_SIZE)
    module = (
        dense_layers(MEMORY_SIZE, DEPTH)
        if kind == "dense"
        else InvertibleNetwork(MEMORY_SIZE, DEPTH, SLOPE, activations=kind)
    )
    module(rows[:64]).sum().backward()  # loads code, and allocates the weights' gradients
    before = peak_resident()
    module(rows).sum().backward()
    return peak_resident() - before


def memory() -> dict[str, int]:
    """`peak_memory` of each kind, each in a process of its own."""
    ask = [sys.executable, __file__, "--memory-of"]
    return {
        kind: json.loads(subprocess.run([*ask, kind], check=True, capture_output=True).stdout)
        for kind in ("dense", "store", "recompute")
    }


def table(results: dict) -> str:
    """Everything measured, as Markdown."""
    lines = [
        f"torch {results['torch']}, {results['threads']} threads, {results['cpu']}",
        "",
        "| n | batch | forward | inverse | step | forward, inverse over the limit |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key, found in results["cells"].items():
        n, batch = key.split(", ")
        lines.append(
            f"| {n} | {batch} | {found['forward']:.2f} | {found['inverse']:.2f} "
            f"| {found['step']:.2f} | {found['forward over limit']:.2f}, "
            f"{found['inverse over limit']:.2f} |"
        )
    lines += ["", "bfloat16, beside dense layers in bfloat16:", ""]
    lines += ["| n | batch | forward | inverse | step |", "| --- | --- | --- | --- | --- |"]
    for key, found in results["bfloat16"].items():
        figures = " | ".join(f"{found[name]:.2f}" for name in ("forward", "inverse", "step"))
        lines.append(f"| {' | '.join(key.split(', '))} | {figures} |")
    lines += ["", "Errors in float32, beside those of a dense layer and of solve_triangular:", ""]
    lines += ["| n | forward | inverse |", "| --- | --- | --- |"]
    for key, found in results["errors"].items():
        lines.append(f"| {key} | {found['forward']:.2f} | {found['inverse']:.2f} |")
    powers = ", ".join(f"{name}^{power:.2f}" for name, power in results["slopes"].items())
    lines += ["", f"In the end a step costs as {powers}."]
    lines += ["", f"A step of {DEPTH} layers, beside the plain network's:", ""]
    lines += ["| n | batch | store | recompute |", "| --- | --- | --- | --- |"]
    for key, found in results["network"].items():
        lines.append(
            f"| {' | '.join(key.split(', '))} | {found['store']:.2f} | {found['recompute']:.2f} |"
        )
    lines += [
        "",
        f"Memory that a step of {DEPTH} layers adds, n = {MEMORY_SIZE}, batch {MEMORY_BATCH}: "
        + ", ".join(f"{kind} {size / 2**20:.0f} MiB" for kind, size in results["memory"].items())
        + ".",
        "",
        "Others, forward / inverse / step:",
        "",
        "| | " + " | ".join(f"n = {key.replace(', ', ', batch ')}" for key in results["peers"]),
        "| --- |" + " --- |" * len(results["peers"]),
    ]
    for name in next(iter(results["peers"].values())):
        cells = [
            " / ".join(f"{found[name][part]:.1f}" for part in ("forward", "inverse", "step"))
            for found in results["peers"].values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict) -> Figure:
    """Ratios over n for each batch, and how a step's cost grows."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, part in zip(axes[0], ("forward", "inverse", "step"), strict=True):
        for batch in BATCHES:
            ratios = [results["cells"][f"{n}, {batch}"][part] for n in SIZES]
            axis.plot(SIZES, ratios, marker="o", label=f"batch {batch}")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(SIZES, [str(n) for n in SIZES])
        axis.set_ylim(0, 2.5)
        axis.set(title=part, xlabel="n", ylabel="time over the dense layer's")
    axes[0][0].legend()
    others = {"n": "batch 256", "batch": "n = 512", "depth": "n = 256, batch 256"}
    for axis, (name, rest) in zip(axes[1], others.items(), strict=True):
        points = {int(key): seconds for key, seconds in results["growth"][name].items()}
        axis.loglog(list(points), list(points.values()), marker="o")
        axis.set(title=f"a training step, {rest}", xlabel=name, ylabel="seconds")
        axis.grid(alpha=0.3)
    return figure


def limit() -> Callable[[Tensor, Tensor], Tensor]:
    """x W^T by the project's own micro-kernels, compiled now."""
    source = Path(__file__).resolve().parent
    return load(
        "dense_limit",
        [str(source / "dense_limit.cpp"), str(source.parent / "csrc/cpu/product.cpp")],
        extra_include_paths=[str(source.parent / "csrc")],
        extra_cflags=["-O3", "-std=c++20", "-fopenmp", "-fno-trapping-math"],
    ).dense


def measure() -> dict:
    """All figures."""
    dense = limit()
    grid = [(n, batch) for n in SIZES for batch in BATCHES]

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "memory": memory(),
        "cells": {
            f"{n}, {batch}": cell(n, batch, dense) for n, batch in tqdm(grid, desc="float32")
        },
        "bfloat16": {
            f"{n}, {batch}": cell(n, batch, None, torch.bfloat16)
            for n, batch in tqdm(HALVES, desc="bfloat16")
        },
        "network": {
            f"{n}, {batch}": network(n, batch) for n, batch in tqdm(NETWORKS, desc="networks")
        },
        "peers": {
            f"{n}, {batch}": peers(n, batch)
            for n in tqdm(PEER_SIZES, desc="peers")
            for batch in PEER_BATCHES
        },
        "errors": {str(n): errors(n, 256) for n in SIZES},
        "growth": (grown := growth()),
        "slopes": slopes(grown),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for table and plot.")] = Path(
        "docs/layer_speed"
    ),
    memory_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measures all and writes results.json, table.md and ratios.png."""
    if memory_of is not None:
        print(peak_memory(memory_of))
        return
    results = measure()
    write_json(output / "results.json", results)
    write_text(output / "table.md", table(results))
    write_figure(output / "ratios.png", plot(results))


if __name__ == "__main__":
    typer.run(main)
