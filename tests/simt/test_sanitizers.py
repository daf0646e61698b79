"""The kernels once more, compiled with AddressSanitizer and UndefinedBehaviorSanitizer.

The harness checks shared memory; this sees accesses beyond an array in global memory, too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The others have no selected tests, and one of them imports torch.
FILES = (HERE / "test_harness.py", HERE / "test_kernels.py")
# Sizes that are read one by one and by 16 bytes, and rows too long for shared memory.
SELECTION = "sound or every_operation and ascending and (33 or 96) or too_long and float32-d"


def runtime() -> list[str]:
    """Where g++ has the libraries that have to be loaded before all others; none without them."""
    if shutil.which("g++") is None:
        return []
    names = ("libasan.so", "libstdc++.so")
    found = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in names
    ]
    return found if all(Path(path).is_absolute() for path in found) else []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not runtime(), reason="g++ with AddressSanitizer was not found")
def test_no_access_is_out_of_bounds_and_no_behaviour_undefined():
    environment = {
        "INVCAP_SIMT_SANITIZE": "address,undefined",
        "LD_PRELOAD": " ".join(runtime()),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SELECTION, *FILES],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
