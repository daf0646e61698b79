"""What nvcc made of the kernels, as the disassembler shows it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from invcap_ext import _C, build_info

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
OUTPUT = ROOT / "build" / "codegen"


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture.

    Attributes:
        name: with its template arguments.
        registers: a thread.
        local: bytes of local memory and stack a thread, where spilled registers go.
        static_shared: bytes a block.
        sass: its instructions, one a line.
    """

    name: str
    registers: int
    local: int
    static_shared: int
    sass: str


def tool(name: str) -> str:
    """The path of a tool: on PATH, or where NVIDIA's wheels put it. Skips where there is none."""
    wheels = [bin for path in sys.path for bin in Path(path).glob("nvidia/*/bin")]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, wheels)]))
    if found is None:
        pytest.skip(f"{name} was not found on PATH, nor in a package nvidia-cuda-{name}")
    return found


def output(*command: str | Path) -> str:
    places = [os.environ["PATH"], str(Path(tool("nvdisasm")).parent)]  # which cuobjdump calls
    environment = os.environ | {"PATH": os.pathsep.join(places)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


@cache
def kernels(architecture: str) -> tuple[Kernel, ...]:
    """All kernels: of the installed extension, or of what nvcc makes of the launchers."""
    cuobjdump = tool("cuobjdump")
    built = [Path(_C.__file__)] if build_info().cuda else []
    return disassembled(cuobjdump, built, architecture) or disassembled(
        cuobjdump, compiled(architecture), architecture
    )


def compiled(architecture: str) -> list[Path]:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    results = [OUTPUT / f"{source.stem}-{architecture}.cubin" for source in SOURCES]
    flags = ("-std=c++20", f"-arch={architecture}", f"-I{ROOT / 'csrc'}")
    running = [
        subprocess.Popen([tool("nvcc"), *flags, "-cubin", source, "-o", result])
        for source, result in zip(SOURCES, results, strict=True)
    ]
    assert not any([process.wait() for process in running]), "nvcc failed"
    return results


def disassembled(cuobjdump: str, files: list[Path], architecture: str) -> tuple[Kernel, ...]:
    usage, sass = {}, {}
    for file in files:
        dump = (cuobjdump, "-arch", architecture)
        usage |= re.findall(r"Function (\w+):\s*\n\s*(.*)", output(*dump, "-res-usage", file))
        listing = output(*dump, "-sass", file)
        sass |= re.findall(r"Function : (\w+)\n(.*?)(?=\n\s*Function :|\Z)", listing, re.DOTALL)
    names = output(tool("c++filt"), *usage).splitlines() if usage else []
    found = []
    for name, (mangled, line) in zip(names, usage.items(), strict=True):
        amounts = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
        local = amounts["LOCAL"] + amounts["STACK"]
        found.append(Kernel(name, amounts["REG"], local, amounts["SHARED"], sass[mangled]))
    return tuple(found)
