"""What nvcc makes of the kernels: registers, memory and instructions, for sm_80 and sm_90."""

import pytest
from sass import Kernel, kernels

# A multiprocessor has 65536 registers: two blocks of 256 threads may take 128 each. The widest
# tiles, 128 rows for products out of place and float64, may fill it alone.
REGISTERS = 128
WIDE_REGISTERS = 255
TENSOR_CORES = {
    "Tf32x3": ("HMMA.1688.F32.TF32",),
    "TensorCore<__nv_bfloat16": ("HMMA.16816.F32.BF16",),
    "TensorCore<__half": ("HMMA.16816.F32",),
}
ELEMENTWISE = ("elementwise", "bias_gradient", "sum_slices", "invert_blocks", "window_solve")


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request) -> tuple[Kernel, ...]:
    return kernels(request.param)


def test_every_kernel_is_there(compiled):
    names = [kernel.name for kernel in compiled]
    assert sum("fused_rows" in name for name in names) == 4 * 2 * 5
    for name in ("weight_gradient", "trimmed_product", "few_rows", "squared_error", *ELEMENTWISE):
        assert any(name in kernel for kernel in names)


def test_nothing_lies_in_local_memory(compiled):
    for kernel in compiled:
        assert (kernel.name, kernel.stack, kernel.spills) == (kernel.name, 0, 0)
        assert "LDL" not in kernel.sass
        assert "STL" not in kernel.sass


def test_registers_and_shared_memory_keep_to_their_budget(compiled):
    for kernel in compiled:
        wide = ", 128>" in kernel.name or "(int)128>" in kernel.name or "double" in kernel.name
        assert kernel.registers <= (WIDE_REGISTERS if wide else REGISTERS), kernel.name
        assert kernel.static_shared == 0, kernel.name


def test_tensor_cores_multiply_where_they_are_meant_to(compiled):
    for kernel in compiled:
        for math, instructions in TENSOR_CORES.items():
            if math in kernel.name:
                assert any(word in kernel.sass for word in instructions), kernel.name
        if "Ffma" in kernel.name:
            assert "MMA" not in kernel.sass, kernel.name
            assert ("DFMA" if "double" in kernel.name else "FFMA") in kernel.sass


def test_weights_and_rows_are_read_by_16_bytes(compiled):
    for kernel in compiled:
        if (
            any(name in kernel.name for name in ELEMENTWISE)
            or "squared_error<float, 1>" in kernel.name
        ):
            continue
        if "squared_error" in kernel.name and ", (int)1>" in kernel.name:
            continue
        words = [line for line in kernel.sass.splitlines() if "LDG" in line and ".128" in line]
        assert words, kernel.name
