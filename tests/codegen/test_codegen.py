"""What nvcc makes of the kernels: registers, memory and instructions, for sm_80 and sm_90."""

import pytest
from sass import Kernel, kernels

pytestmark = pytest.mark.slow  # minutes of nvcc, if the extension has no kernels

# A multiprocessor has 65536 registers: two blocks of 256 threads may take 128 each. float64 may
# have it alone.
REGISTERS = 128
WIDE_REGISTERS = 255
TENSOR_CORES = {
    "Tf32x3<": "HMMA.1688.F32.TF32",
    "TensorCore<__nv_bfloat16": "HMMA.16816.F32.BF16",
    "TensorCore<__half": "HMMA.16816.F32 ",
}
# Kernels that read elements one by one, and those whose images are not aligned.
NARROW = ("times_m<", "bias_gradient<", "sum_slices<", "invert_blocks<", ", 1>(")


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request) -> tuple[Kernel, ...]:
    return kernels(request.param)


def test_every_kernel_is_there(compiled):
    names = [kernel.name for kernel in compiled]
    count = {
        # Four operations in tiles of 16 and of 64 rows: FFMA in two types, three TF32 products and
        # two half-precision types.
        "fused_rows<": 4 * 2 * 5,
        # Two sides, two orders; tall and short tiles, which are the same in float64.
        "trimmed_product<": 2 * 2 * (4 * 2 + 1),
        "weight_gradient<": 5,
        "few_rows_straight<": 2 * 4,
        "few_rows_transposed<": 2 * 4,
        "invert_blocks<": 4,
        "squared_error<": 2 * 4,
    }
    assert count == {kernel: sum(kernel in name for name in names) for kernel in count}


def test_nothing_lies_in_local_memory(compiled):
    for kernel in compiled:
        assert kernel.local == 0, kernel.name
        assert "LDL" not in kernel.sass, kernel.name
        assert "STL" not in kernel.sass, kernel.name


def test_registers_and_shared_memory_keep_to_their_budget(compiled):
    for kernel in compiled:
        limit = WIDE_REGISTERS if "double" in kernel.name else REGISTERS
        assert kernel.registers <= limit, kernel.name
        assert kernel.static_shared <= 1024, kernel.name  # what the system takes on sm_90


def test_tensor_cores_multiply_where_they_are_meant_to(compiled):
    for kernel in compiled:
        for math, instruction in TENSOR_CORES.items():
            if math in kernel.name:
                assert instruction in kernel.sass, kernel.name
        if "Ffma<" in kernel.name:
            assert "HMMA" not in kernel.sass, kernel.name
            assert ("DFMA" if "double" in kernel.name else "FFMA") in kernel.sass, kernel.name


def test_weights_and_rows_are_read_in_16_byte_vectors(compiled):
    for kernel in compiled:
        if any(name in kernel.name for name in NARROW):
            continue
        lines = kernel.sass.splitlines()
        assert any(("LDG" in line and ".128" in line) for line in lines), kernel.name
