import os
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


def test_auto_says_what_it_chose(tmp_path):
    done = configure(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    chosen = "and CUDA" if build_info().cuda else "alone"
    assert f"INVCAP_CUDA=auto: building for the CPU {chosen}" in done.stdout


def test_cuda_is_left_out_where_nobody_wants_it(tmp_path):
    done = configure(tmp_path, "0")
    assert done.returncode == 0, done.stderr
    assert "INVCAP_CUDA=0: building for the CPU alone" in done.stdout


@pytest.mark.skipif(build_info().cuda is None, reason="built for the CPU alone")
def test_an_unknown_architecture_is_named(tmp_path):
    done = configure(tmp_path, "1", TORCH_CUDA_ARCH_LIST="8.0;hopper")
    assert "TORCH_CUDA_ARCH_LIST: 'hopper' is not like 9.0 or 9.0+PTX" in done.stderr


def test_an_unknown_choice_is_named(tmp_path):
    assert "INVCAP_CUDA is 'maybe'; expected auto, 0 or 1" in configure(tmp_path, "maybe").stderr
