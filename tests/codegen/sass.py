"""What nvcc made of the kernels, as the disassembler shows it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

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
    """What nvcc makes of the launchers, once per change of a source, whoever asks first."""
    flags = (tool("nvcc"), "-std=c++20", f"-arch={architecture}", f"-I{ROOT / 'csrc'}", "-cubin")
    key = hashlib.sha256(" ".join(flags).encode())
    for path in sorted((ROOT / "csrc/cuda").iterdir()):
        key.update(path.read_bytes())
    folder = OUTPUT / f"{architecture}-{key.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    results = [folder / f"{source.stem}.cubin" for source in SOURCES]
    parts = [result.with_suffix(".part") for result in results]
    with FileLock(folder / "lock"):
        if not all(result.exists() for result in results):
            running = [
                subprocess.Popen([*flags, source, "-o", part])
                for source, part in zip(SOURCES, parts, strict=True)
            ]
            assert not any([process.wait() for process in running]), "nvcc failed"
            for part, result in zip(parts, results, strict=True):
                part.rename(result)
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
