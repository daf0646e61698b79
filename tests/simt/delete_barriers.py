"""Deletes the barriers of the kernels, one at a time, and reports those that no test misses.

    python tests/simt/delete_barriers.py

Each deletion is made in a copy of csrc/; the tests of one arithmetic each then run against it under
all orders, and at least one has to fail. Exits with 1 if any deletion survives. Takes minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BARRIER = re.compile(r"^ *(__syncthreads\(\)|wait_for_copies<0>\(\));.*\n", re.MULTILINE)
TESTS = ("-k", "(every_operation or too_long) and float32 and not 384 and not 12 or 255-float32")


def deletions() -> list[tuple[Path, re.Match]]:
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cuh"))
    return [
        (path, match) for path in kernels for match in BARRIER.finditer(path.read_text())
        if path.name != "ptx.cuh"
    ]  # fmt: skip


def survives(path: Path, match: re.Match) -> bool:
    """Whether all tests pass without this barrier."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "csrc"
        shutil.copytree(ROOT / "csrc", copy)
        text = path.read_text()
        (copy / path.relative_to(ROOT / "csrc")).write_text(
            text[: match.start()] + text[match.end() :]
        )
        tests = ROOT / "tests/simt/test_kernels.py"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *TESTS,
            tests,
        ]
        environment = os.environ | {"INVCAP_SIMT_CSRC": str(copy)}
        run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        if run.returncode not in (0, 1):
            raise RuntimeError(run.stdout + run.stderr)
        return run.returncode == 0


def main() -> int:
    survivors = 0
    for path, match in deletions():
        line = path.read_text()[: match.start()].count("\n") + 1
        outcome = "SURVIVES" if survives(path, match) else "missed"
        survivors += outcome == "SURVIVES"
        print(f"{path.relative_to(ROOT)}:{line}: {match[0].strip()}  {outcome}", flush=True)
    print(f"{survivors} of {len(deletions())} deletions survive")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
