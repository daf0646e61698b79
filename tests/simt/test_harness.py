"""The harness fails where a GPU would be free to do anything, under every order of threads."""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
from simt_build import library
from simt_calls import ORDERS, Chip, track

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


@pytest.mark.parametrize("fault", ["none", "same place", "stale"])
def test_blocks_of_a_launch_share_no_place_in_global_memory(faults, fault):
    out = np.full(THREADS, 7, np.float32)
    function = faults.run_between_blocks
    function.restype = ctypes.c_char_p
    track(faults, [out])
    message = function(fault.encode(), None, pointer(out)).decode()
    track(faults, [])
    if fault == "same place":
        assert "race: block" in message
        return
    assert message == ""
    # A reader of its neighbour's half finds what the launch found, whichever block ran first.
    expected = {"none": [1, 2], "stale": [8, 8]}[fault]
    np.testing.assert_array_equal(out, np.repeat(expected, THREADS // 2))


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ((1, 1, 1, 1024, 227 << 10), ""),
        ((1, 1, 1, 32, (227 << 10) + 1), "232449 bytes of shared memory, the limit is 232448"),
        ((1, 1, 1, 1025, 0), "1025 threads a block, the limit is 1024"),
        ((1, 1, 1, 0, 0), "0 threads a block"),
        ((0, 1, 1, 32, 0), "0 blocks along x"),
        ((1 << 31, 1, 1, 32, 0), "2147483648 blocks along x, the limit is 2147483647"),
        ((1, 65536, 1, 32, 0), "65536 blocks along y, the limit is 65535"),
        ((1, 1, 65536, 32, 0), "65536 blocks along z, the limit is 65535"),
    ],
)
def test_a_launch_keeps_to_the_limits_of_a_chip(faults, launch, expected):
    faults.run_nothing.restype = ctypes.c_char_p
    faults.run_nothing.argtypes = [*(ctypes.c_uint,) * 4, ctypes.c_size_t]
    message = faults.run_nothing(*launch).decode()
    assert expected in message if expected else message == ""


def test_matrix_instructions_cut_their_operands_to_tf32(faults):
    generator = np.random.default_rng(0)
    a = generator.standard_normal((16, 8)).astype(np.float32)
    b = generator.standard_normal((8, 8)).astype(np.float32)
    out = np.zeros((16, 8), np.float32)
    faults.run_product.restype = ctypes.c_char_p
    assert faults.run_product(pointer(a), pointer(b), pointer(out)) == b""
    error = np.abs(out - a.astype(np.float64) @ b).max()
    assert 1e-5 < error < 1e-2
    np.testing.assert_allclose(out, tf32(a) @ tf32(b), atol=1e-6)


def test_matrix_instructions_cut_off_what_lies_below_the_largest_term(faults):
    a, b, out = np.zeros((16, 8)), np.zeros((8, 8)), np.zeros((16, 8), np.float32)
    a, b = a.astype(np.float32), b.astype(np.float32)
    a[:, :4], b[0] = 1, 1
    tiny = [2.0**-24, -(2.0**-25), 2.0**-23 + 2.0**-24, -(2.0**-24)]
    b[1, :4], b[2, :4] = tiny, tiny
    faults.run_product.restype = ctypes.c_char_p
    assert faults.run_product(pointer(a), pointer(b), pointer(out)) == b""
    # Twice each, beside 1: of 24 bits below the leading one 2^-25 has none, and a float32 keeps 23.
    expected = [1 + 2.0**-23, 1, 1 + 3 * 2.0**-23, 1 - 2.0**-23]
    np.testing.assert_array_equal(out[0, :4], np.float32(expected))


@pytest.mark.parametrize("bits", [0xFFFFFFFF, 0x7FC00000])
def test_not_a_number_survives_tf32(faults, bits):
    a, b, out = np.ones((16, 8), np.float32), np.ones((8, 8), np.float32), np.zeros((16, 8), "f4")
    a.view(np.uint32)[3, 5] = bits
    faults.run_product.restype = ctypes.c_char_p
    assert faults.run_product(pointer(a), pointer(b), pointer(out)) == b""
    np.testing.assert_array_equal(np.isnan(out).any(1), np.arange(16) == 3)


def tf32(a: np.ndarray) -> np.ndarray:
    return (a.view(np.uint32) & 0xFFFFE000).astype(np.uint32).view(np.float32)
