"""No barrier, and no wait for copies, of any kernel can be deleted without a test failing.

Each line that has one is ignored by the harness, as if it were not there, while all kernels run in
all orders; at least one of them must be found out.

    python tests/simt/test_barriers.py     # prints what found each deletion out, and survivors
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from simt_build import CSRC
from simt_calls import ORDERS, Chip, kernels, squared_error
from test_kernels import OPERATIONS, PRODUCTS, TOLERANCE, Case

pytestmark = pytest.mark.slow

BARRIER = re.compile(r"__syncthreads(_or)?\(|wait_for_copies<")
# Fused tiles of 64 rows, of 16, few rows, and rows too long for shared memory.
REGIMES = (
    (129, 33, Chip(processors=1)),
    (129, 33, Chip()),
    (129, 3, Chip()),
    (577, 33, Chip(shared_limit=96 << 10, processors=1)),
)


def lines_with_barriers() -> list[tuple[str, int]]:
    return [
        (path.name, number)
        for path in sorted((CSRC / "cuda").glob("*.cuh"))
        if path.name != "ptx.cuh"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if BARRIER.search(line.split("//")[0])
    ]


def squared_errors(case: Case, chip: Chip) -> list:
    images = case.x.astype(np.float32)
    squared_error(case.network.loaded, chip, "float32", images, images, images[:, 0])
    return []


def runs() -> Iterator[tuple[str, Case, Chip]]:
    for n, rows, chip in REGIMES:
        for math in TOLERANCE:
            case = Case(kernels(), math, n, rows)
            for order in ORDERS:
                operations = PRODUCTS if n == 577 else (*OPERATIONS, squared_errors)
                for operation in operations:
                    yield operation, case, replace(chip, order=order, seed=1)


def failure(operation, case: Case, chip: Chip) -> str | None:
    try:
        case.check(operation(case, chip))
    except AssertionError as error:
        return f"{operation.__name__}, {chip.order}: {error}".splitlines()[0]
    return None


def found_out(line: tuple[str, int]) -> str | None:
    """What the harness or the comparison with float64 says without this line; None if nothing."""
    for operation, case, chip in runs():
        if message := failure(operation, case, replace(chip, ignored=line)):
            assert failure(operation, case, chip) is None
            return message
    return None


@pytest.mark.parametrize("line", lines_with_barriers(), ids=lambda line: f"{line[0]}:{line[1]}")
def test_a_deleted_barrier_is_detected(line):
    assert found_out(line)


def main() -> int:
    survivors = 0
    for file, line in lines_with_barriers():
        how = found_out((file, line))
        survivors += how is None
        text = (CSRC / "cuda" / file).read_text().splitlines()[line - 1].strip()
        print(f"{file}:{line}  {text}\n    {how or 'SURVIVES'}", flush=True)
    print(f"{survivors} survivors of {len(lines_with_barriers())}")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
