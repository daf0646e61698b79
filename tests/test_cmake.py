import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from invcap_ext import build_info

ROOT = Path(__file__).parents[1]
CMAKE = Path(sys.executable).with_name("cmake")

pytestmark = [
    pytest.mark.skipif(not CMAKE.exists(), reason=f"{CMAKE} is not installed"),
    pytest.mark.slow,
]


def configure(build: Path, cuda: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(CMAKE, "-S", ROOT, "-B", build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={CMAKE.with_name('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DINVCAP_CUDA={cuda}",
        ],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_cuda_that_cannot_be_built_is_an_error_where_it_was_asked_for(tmp_path):
    done = configure(tmp_path, "1", CUDACXX="/bin/false")
    assert done.returncode != 0
    assert "INVCAP_CUDA=1, but " in done.stderr
    assert "no usable nvcc was found" in done.stderr or "a build without CUDA" in done.stderr


def test_auto_prints_its_choice(tmp_path):
    done = configure(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    chosen = "and CUDA" if build_info().cuda else "alone"
    assert f"INVCAP_CUDA=auto: building for the CPU {chosen}" in done.stdout


def test_cuda_is_left_out_if_it_is_turned_off(tmp_path):
    done = configure(tmp_path, "0")
    assert done.returncode == 0, done.stderr
    assert "INVCAP_CUDA=0: building for the CPU alone" in done.stdout


@pytest.mark.skipif(build_info().cuda is None, reason="built for the CPU alone")
def test_an_unknown_architecture_is_named(tmp_path):
    done = configure(tmp_path, "1", TORCH_CUDA_ARCH_LIST="8.0;hopper")
    assert "TORCH_CUDA_ARCH_LIST: 'hopper' is not like 9.0 or 9.0+PTX" in done.stderr


def pretended_torch(folder: Path, cuda: str) -> dict[str, str]:
    """The environment in which CMake takes torch for one that was built with this CUDA."""
    extension = folder / "torch" / "utils" / "cpp_extension.py"
    extension.parent.mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        "from types import SimpleNamespace\n"
        "__version__ = '2.13.0'\n"
        f"version = SimpleNamespace(cuda={cuda!r})\n"
        "_C = SimpleNamespace(_GLIBCXX_USE_CXX11_ABI=True)\n"
    )
    extension.write_text("def include_paths():\n    return ['.']\nlibrary_paths = include_paths\n")
    return {"PYTHONPATH": str(folder)}


def nvcc_version() -> tuple[int, int]:
    found = re.search(r"release (\d+)\.(\d+)", subprocess.getoutput("nvcc --version"))
    if found is None:
        pytest.skip("nvcc was not found")
    return int(found[1]), int(found[2])


def test_a_toolkit_of_another_major_version_than_torch_is_refused(tmp_path):
    major, minor = nvcc_version()
    environment = pretended_torch(tmp_path / "stub", f"{major - 1}.8")
    done = configure(tmp_path, "1", **environment)
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert f"INVCAP_CUDA=1, but torch 2.13.0 was built with CUDA {major - 1}.8, and " in message
    assert f"is of CUDA {major}.{minor}; they must have one major version" in message


def test_every_major_architecture_that_nvcc_knows_gets_machine_code(tmp_path):
    major, minor = nvcc_version()
    environment = pretended_torch(tmp_path / "stub", f"{major}.{minor}")
    done = configure(tmp_path, "1", TORCH_CUDA_ARCH_LIST="", **environment)
    known = "8.0;9.0;10.0;12.0+PTX" if (major, minor) >= (12, 8) else "8.0;9.0+PTX"
    assert f"architectures {known}" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def test_an_unknown_choice_is_named(tmp_path):
    assert "INVCAP_CUDA is 'maybe'; expected auto, 0 or 1" in configure(tmp_path, "maybe").stderr
