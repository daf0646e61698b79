import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CMAKE = Path(sys.executable).with_name("cmake")

pytestmark = pytest.mark.skipif(not CMAKE.exists(), reason=f"{CMAKE} is not installed")


def configure(build: Path, cuda: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(CMAKE, "-S", ROOT, "-B", build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={CMAKE.with_name('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DINVCAP_CUDA={cuda}",
        ],
        capture_output=True,
        text=True,
    )


def test_cuda_that_cannot_be_built_is_an_error_where_it_was_asked_for(tmp_path):
    done = configure(tmp_path, "1")
    assert done.returncode != 0
    assert "INVCAP_CUDA=1, but this version has a CPU back end only" in done.stderr


def test_auto_says_what_it_chose(tmp_path):
    done = configure(tmp_path, "auto")
    assert done.returncode == 0, done.stderr
    assert "INVCAP_CUDA=auto: building for the CPU alone" in done.stdout


def test_an_unknown_choice_is_named(tmp_path):
    assert "INVCAP_CUDA is 'maybe'; expected auto, 0 or 1" in configure(tmp_path, "maybe").stderr
