"""The harness fails where a GPU would be free to do anything, under every order of threads."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from simt_build import library
from simt_calls import ORDERS, Chip

THREADS = 64


@pytest.fixture(scope="module")
def faults() -> ctypes.CDLL:
    return library(Path(__file__).with_name("faults.cpp"))


@pytest.fixture(params=ORDERS, autouse=True)
def order(request, faults):
    Chip(request.param, seed=1).configure(faults)


def run(faults, kernel: str, fault: str) -> tuple[str, np.ndarray, np.ndarray]:
    values = np.arange(THREADS, dtype=np.float32)
    out = np.zeros_like(values)
    function = getattr(faults, f"run_{kernel}")
    function.restype = ctypes.c_char_p
    message = function(fault.encode(), pointer(values), pointer(out))
    return message.decode(), values, out


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_sound_kernels_pass(faults):
    for kernel in ("mirror", "copied"):
        message, values, out = run(faults, kernel, "none")
        assert message == ""
        np.testing.assert_array_equal(out, values[::-1])
    message, values, out = run(faults, "summed", "none")
    assert message == ""
    np.testing.assert_array_equal(out, values.reshape(2, 32).sum(1).repeat(32))


@pytest.mark.parametrize(
    ("kernel", "fault", "expected"),
    [
        ("mirror", "missing barrier", "race|nobody wrote"),
        ("mirror", "overwritten", "race"),
        ("mirror", "divergent barrier", "others wait at"),
        ("mirror", "exited thread", "barrier that one thread exit"),
        ("mirror", "unwritten", "nobody wrote"),
        ("mirror", "out of bounds", "out of the bounds"),
        ("copied", "missing wait", "copy in flight"),
        ("summed", "narrow mask", "mask leaves out"),
        ("summed", "uneven masks", "another mask"),
        ("summed", "missing lane", "never reach"),
    ],
)
def test_a_planted_fault_is_named_with_its_line(faults, kernel, fault, expected):
    message = run(faults, kernel, fault)[0]
    assert re.search(expected, message)
    assert message.startswith("faults.cpp:")


def test_a_block_gets_no_more_shared_memory_than_the_chip_has(faults):
    faults.run_nothing.restype = ctypes.c_char_p
    faults.run_nothing.argtypes = [ctypes.c_size_t]
    assert faults.run_nothing(227 << 10) == b""
    assert b"limit" in faults.run_nothing((227 << 10) + 1)


def test_matrix_instructions_round_their_operands_to_tf32(faults):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((16, 8)).astype(np.float32)
    b = generator.standard_normal((8, 8)).astype(np.float32)
    out = np.zeros((16, 8), np.float32)
    faults.run_product.restype = ctypes.c_char_p
    assert faults.run_product(pointer(a), pointer(b), pointer(out)) == b""
    error = np.abs(out - a.astype(np.float64) @ b).max()
    assert 1e-5 < error < 1e-2
    np.testing.assert_allclose(out, tf32(a) @ tf32(b), atol=1e-6)


def tf32(a: np.ndarray) -> np.ndarray:
    return ((a.view(np.uint32) + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)
