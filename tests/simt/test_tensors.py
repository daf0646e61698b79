"""`csrc/cuda/lu_leaky.cpp` and `squared_error.cpp` on tensors of the CPU, kernels on the harness.

What the operators on a GPU give is what they give on the CPU.
"""

import sysconfig
from importlib import util
from pathlib import Path

import pytest
import torch
from simt_build import CSRC, built
from simt_calls import Chip, kernels
from torch.utils.cpp_extension import include_paths, library_paths

from invcap_ext import selfcheck

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
OPERATORS = torch.ops.invcap
WRAPPERS = ("cuda/lu_leaky.cpp", "cuda/squared_error.cpp", "dense.cpp")
# What is taken for 33 rows of n.
CHIPS = {
    "fused_16": (129, Chip()),
    "fused_64": (129, Chip(processors=1)),
    "not_on_chip": (577, Chip(shared_limit=96 << 10, processors=1)),
}
each_chip = pytest.mark.parametrize(("n", "chip"), CHIPS.values(), ids=CHIPS)


@pytest.fixture(scope="module")
def gpu():
    """Both files as a module, built against the library of the kernels."""
    loaded = kernels()
    headers = [HERE / "stand_ins", *include_paths(), sysconfig.get_path("include")]
    flags = ["-O1", f"-DTORCH_VERSION={torch.__version__}", "-DTORCH_EXTENSION_NAME=tensors"]
    flags += [f"-I{path}" for path in headers]
    flags += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    libraries = [*(f"-L{path}" for path in library_paths())]
    libraries += ["-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"]
    sources = [HERE / "tensors.cpp", *map(CSRC.joinpath, WRAPPERS)]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    target = built("tensors", sources, flags, suffix, [loaded._name, *libraries])
    spec = util.spec_from_file_location("tensors", target)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.loaded = loaded
    return module


@pytest.fixture
def layer(monkeypatch):
    monkeypatch.setattr(selfcheck, "DEVICE", "cpu")
    return lambda dtype, rows=33, n=129: selfcheck.Layer.draw(n, rows, dtype)


@each_chip
@pytest.mark.parametrize("operation", selfcheck.PEERS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("dtype", selfcheck.TOLERANCES, ids=str)
def test_an_operation_is_that_of_the_cpu(gpu, layer, monkeypatch, operation, dtype, n, chip):
    chip.configure(gpu.loaded)
    for rows in (0, 3, 33):
        tensors = layer(dtype, rows, n)
        expected = operation(tensors.exact())
        with monkeypatch.context() as patch:
            patch.setattr(selfcheck, "OPERATORS", gpu)
            found = operation(tensors)
        assert [a.dtype for a in found] == [dtype] * len(found)
        assert [a.shape for a in found] == [a.shape for a in expected]
        if rows:
            assert selfcheck.relative_error(found, expected) <= selfcheck.TOLERANCES[dtype]


@each_chip
@pytest.mark.parametrize("inverse", (False, True))
def test_a_network_is_that_of_the_cpu(gpu, layer, inverse, n, chip):
    chip.configure(gpu.loaded)
    p = layer(torch.float64, n=n)
    arguments = ([p.lu, p.lu.T], [p.bias, None], [1.1, 0.9], [0.3, 1.0], inverse)
    found = gpu.lu_leaky_network(p.x, *arguments)
    expected = OPERATORS.lu_leaky_network(p.x, *arguments)
    assert selfcheck.relative_error((found,), (expected,)) < 1e-12


def test_rows_that_leave_the_chip_are_solved_in_float32_where_tf32_is_allowed(gpu, layer):
    n, chip = CHIPS["not_on_chip"]
    chip.configure(gpu.loaded)
    found = []
    for precision in ("ieee", "tf32"):
        torch.backends.cuda.matmul.fp32_precision = precision
        p = layer(torch.float32, n=n)
        found.append(gpu.lu_leaky_inverse(p.y, p.lu, p.bias, *selfcheck.SETTINGS))
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    for plain, allowed in zip(*found, strict=True):
        assert torch.equal(plain, allowed)


def test_the_squared_error_is_that_of_the_cpu(gpu):
    Chip().configure(gpu.loaded)
    arguments = torch.randn(3, 40), torch.randn(3, 40), torch.rand(3)
    expected = OPERATORS.weighted_squared_error(*arguments)
    for found, wanted in zip(gpu.weighted_squared_error(*arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("write", ("legacy", "new"))
def test_both_settings_that_allow_tf32_send_float32_to_tensor_cores(gpu, layer, write):
    """Torch's older query raises once the newer setting has been written."""
    Chip().configure(gpu.loaded)
    found = {}
    for precision in ("ieee", "tf32"):
        if write == "new":
            torch.backends.cuda.matmul.fp32_precision = precision
        else:
            torch.set_float32_matmul_precision({"ieee": "highest", "tf32": "high"}[precision])
        try:
            for dtype in (torch.float32, torch.float64):
                p = layer(dtype)
                arguments = (p.x, p.lu, p.bias, *selfcheck.SETTINGS)
                found[precision, dtype], _ = gpu.lu_leaky(*arguments)
        finally:
            torch.backends.cuda.matmul.fp32_precision = "ieee"
            torch.set_float32_matmul_precision("highest")
    plain, split = (found[precision, torch.float32] for precision in ("ieee", "tf32"))
    assert not torch.equal(plain, split)
    torch.testing.assert_close(plain, split)
    assert torch.equal(found["ieee", torch.float64], found["tf32", torch.float64])


@pytest.mark.parametrize("captured", (False, True))
def test_the_inverse_follows_its_weights_however_they_are_written(gpu, layer, captured):
    Chip().configure(gpu.loaded)
    gpu.capture(captured)
    p = layer(torch.float64)
    for write in (lambda lu: lu.mul_(0.5), lambda lu: lu.data.neg_(), lambda lu: lu.neg_()):
        write(p.lu)
        for diagonal in (1.0, 0.9):
            arguments = (p.y, p.lu, p.bias, diagonal, 0.3)
            found, expected = (
                gpu.lu_leaky_inverse(*arguments),
                OPERATORS.lu_leaky_inverse(*arguments),
            )
            assert selfcheck.relative_error(found, expected) < 1e-12
    gpu.capture(False)
