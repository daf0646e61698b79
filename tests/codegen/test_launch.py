"""`csrc/cuda/launch.cuh` as nvcc compiles it, on a stand-in for the CUDA run time."""

import ctypes
import subprocess
from pathlib import Path

import pytest
from sass import ROOT, tool

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
KIB = 1024


@pytest.fixture
def runtime(tmp_path) -> ctypes.CDLL:
    """A library of its own for each test: nothing has been launched, device 0 is current."""
    target = tmp_path / "launches.so"
    flags = ["-std=c++20", "-shared", "-Xcompiler", "-fPIC", "-cudart", "none", "-arch=sm_80"]
    flags += ["-Xlinker", "-Bsymbolic"]  # a CUDA run time that torch has loaded is not meant
    sources = [HERE / "launches.cu", HERE / "runtime.cpp"]
    command = [tool("nvcc"), *flags, f"-I{ROOT / 'csrc'}", *sources, "-o", target]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(target))
    loaded.launch.restype = ctypes.c_char_p
    loaded.launch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    return loaded


def test_launches_of_all_sizes_by_all_threads_on_all_devices_go_through(runtime):
    """A device is asked three questions, and each kernel is allowed its shared memory, once."""
    # While one thread launches with much shared memory, another does with little.
    assert runtime.launch(200 * KIB, 1 * KIB) == b""
    assert (runtime.launched(), runtime.asked()) == (2, 4)
    assert runtime.launch(227 * KIB, 0) == runtime.launch(0, 0) == b""
    assert (runtime.launched(), runtime.asked()) == (2, 0)
    runtime.use_device(1)
    assert runtime.launch(99 * KIB, 1 * KIB) == b""
    assert (runtime.launched(), runtime.asked()) == (2, 4)
    assert runtime.launch(100 * KIB, 0) == (
        b"a kernel needs 102400 bytes of shared memory, this GPU has 101376"
    )
    runtime.use_device(0)
    assert runtime.launch(100 * KIB, 0) == b""
