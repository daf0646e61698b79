"""Builds the kernels against the harness, as a library for ctypes, once per change of a source."""

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = Path(os.environ.get("INVCAP_SIMT_CSRC", ROOT / "csrc"))
HERE = Path(__file__).parent
CACHE = CSRC.parent / "build" / "simt"
SANITIZE = os.environ.get("INVCAP_SIMT_SANITIZE", "")
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
FLAGS += ["-fno-strict-aliasing"]  # as nvcc compiles device code


def library(test: Path, *kernels: str) -> ctypes.CDLL:
    """Returns the library of a test's C++ side, kernels (files in csrc) and the harness.

    Skips where g++ cannot build it.
    """
    compiler = shutil.which("g++")
    if compiler is None or os.uname().machine != "x86_64":
        pytest.skip("the SIMT harness needs g++ on x86-64")
    flags = [*FLAGS, f"-I{CSRC}", f"-I{HERE}"]
    if SANITIZE:
        flags += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-O1"]
    names = (*kernels, "simt/simt.cpp", "simt/fiber.cpp")
    everything = [test, HERE / "settings.cpp", *(CSRC / name for name in names)]
    key = hashlib.sha256(" ".join(map(str, [*flags, *everything])).encode())
    folders = (CSRC / "cuda", CSRC / "simt", HERE)
    for path in sorted(path for folder in folders for path in folder.glob("*.[ch]*")):
        key.update(path.read_bytes())
    target = CACHE / f"{test.stem}-{key.hexdigest()[:16]}.so"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unloaded = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        objects = [target.with_suffix(f".{source.stem}.o") for source in everything]
        compile_to = [compiler, *flags, "-x", "c++", "-c", "-o"]
        running = [
            subprocess.Popen([*compile_to, place, source], env=unloaded)
            for source, place in zip(everything, objects, strict=True)
        ]
        assert not any([process.wait() for process in running]), f"{target.name} does not compile"
        linking = [compiler, *flags, "-shared", *objects, "-o", target]
        subprocess.run(linking, check=True, env=unloaded)
        for path in objects:
            path.unlink()
    loaded = ctypes.CDLL(str(target))
    loaded.configure.argtypes = [
        *(ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int),
        *(ctypes.c_char_p, ctypes.c_uint),
    ]
    return loaded
