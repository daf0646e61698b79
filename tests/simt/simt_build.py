"""Builds the kernels against the harness, as a library for ctypes, once per change of a source.

Processes that test side by side wait for each other's builds, and share them.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
CSRC = Path(os.environ.get("INVCAP_SIMT_CSRC", ROOT / "csrc"))
HERE = Path(__file__).parent
CACHE = CSRC.parent / "build" / "simt"
SANITIZE = os.environ.get("INVCAP_SIMT_SANITIZE", "")
FLAGS = ["-std=c++20", "-fPIC", f"-I{CSRC}", f"-I{HERE}"]
# -fno-strict-aliasing: as nvcc compiles device code.
KERNEL_FLAGS = ["-O2", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-fno-strict-aliasing"]


def library(test: Path, *kernels: str) -> ctypes.CDLL:
    """Returns the library of a test's C++ side, kernels (files in csrc) and the harness.

    Skips where g++ cannot build it.
    """
    flags = KERNEL_FLAGS
    if SANITIZE:
        flags = [*flags, f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-O1"]
    names = (*kernels, *(f"simt/{name}.cpp" for name in ("simt", "fiber", "global", "records")))
    sources = [test, HERE / "settings.cpp", *(CSRC / name for name in names)]
    loaded = ctypes.CDLL(str(built(test.stem, sources, flags, ".so")))
    loaded.configure.argtypes = [
        *(ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_char_p, ctypes.c_uint),
    ]
    return loaded


def built(
    name: str,
    sources: Sequence[Path],
    flags: Sequence[str],
    suffix: str,
    linked: Sequence[str | Path] = (),
) -> Path:
    """Returns the shared library of C++ sources, linked with others, compiled side by side."""
    compiler = shutil.which("g++")
    if compiler is None or os.uname().machine != "x86_64":
        pytest.skip("the SIMT harness needs g++ on x86-64")
    flags = [*FLAGS, *flags]
    key = hashlib.sha256(" ".join(map(str, [*flags, *sources, *linked])).encode())
    folders = (CSRC / "cuda", CSRC / "simt", HERE)
    read = [path for folder in folders for path in folder.rglob("*.[ch]*")]
    for path in sorted([*read, *CSRC.glob("dense.*")]):
        key.update(path.read_bytes())
    target = CACHE / key.hexdigest()[:16] / f"{name}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / "lock"):
        if not target.exists():
            unloaded = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
            objects = [target.with_name(f"{source.stem}.o") for source in sources]
            running = [
                subprocess.Popen(
                    [compiler, *flags, "-x", "c++", "-c", "-o", place, source], env=unloaded
                )
                for source, place in zip(sources, objects, strict=True)
            ]
            assert not any([process.wait() for process in running]), f"{name} does not compile"
            linking = [compiler, *flags, "-shared", *objects, *linked, "-o"]
            subprocess.run([*linking, target.with_name("part")], check=True, env=unloaded)
            target.with_name("part").rename(target)
            for place in objects:
                place.unlink()
    return target
