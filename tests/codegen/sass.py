"""Compiles the launchers with nvcc and reads what ptxas and the disassembler say of each kernel."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
OUTPUT = ROOT / "build" / "codegen"


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture: its name with template arguments, and its resources."""

    name: str
    architecture: str
    registers: int
    stack: int
    spills: int
    static_shared: int
    sass: str


def tool(name: str) -> str:
    """The path of a CUDA tool: on PATH, or where NVIDIA's wheels put it. Skips without one."""
    places = [Path(path) / "nvidia" for path in sys.path]
    wheels = [str(path.parent) for place in places for path in place.glob(f"*/bin/{name}")]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *wheels]))
    if found is None:
        pytest.skip(f"{name} was not found (nvcc, or the wheel nvidia-cuda-{name})")
    return found


@cache
def kernels(architecture: str) -> tuple[Kernel, ...]:
    nvcc, cuobjdump, filt = tool("nvcc"), tool("cuobjdump"), tool("c++filt")
    environment = os.environ | {
        "PATH": os.pathsep.join([os.environ["PATH"], str(Path(tool("nvdisasm")).parent)])
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    found = []
    for source in SOURCES:
        cubin = OUTPUT / f"{source.stem}-{architecture}.cubin"
        flags = ["-std=c++20", f"-arch={architecture}", "-Xptxas=-v", f"-I{ROOT / 'csrc'}"]
        compiled = subprocess.run(
            [nvcc, *flags, "-cubin", source, "-o", cubin],
            check=True, capture_output=True, text=True, env=environment,
        )  # fmt: skip
        listing = subprocess.run(
            [cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True, env=environment
        ).stdout
        sass = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", listing, re.S))
        for mangled, report in re.findall(
            r"Compiling entry function '(\S+)'(.*?)(?=Compiling entry function|\Z)",
            compiled.stderr, re.S,
        ):  # fmt: skip
            found.append(
                Kernel(
                    subprocess.check_output([filt, mangled], text=True).strip(),
                    architecture,
                    number(r"Used (\d+) registers", report),
                    number(r"(\d+) bytes stack frame", report),
                    number(r"(\d+) bytes spill stores", report)
                    + number(r"(\d+) bytes spill loads", report),
                    number(r"(\d+) bytes smem", report),
                    sass[mangled],
                )
            )
    return tuple(found)


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0
