"""Calls the kernels on the harness with arrays that tell when somebody writes beyond them."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reference import DTYPES, rounded
from simt_build import library

ORDERS = {"ascending": 0, "descending": 1, "random": 2, "warp_ahead": 3}
MARGIN = 64
POINTERS = ("x", "y", "h", "gz", "gh", "grad")
RESULTS = ("out", "out_h", "out_gz", "out_gh", "out_glu", "out_gb", "work")


class Call(ctypes.Structure):
    """`Call` of kernels.cpp."""

    _fields_ = (
        ("scalar", ctypes.c_int),
        ("tensor_cores", ctypes.c_int),
        ("rows", ctypes.c_int64),
        ("n", ctypes.c_int),
        ("depth", ctypes.c_int),
        ("diagonal", ctypes.c_double),
        ("negative_slope", ctypes.c_double),
        ("sign", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("lu", "bias", "inverse", *POINTERS, *RESULTS)),
    )


@dataclass(frozen=True)
class Chip:
    """What the harness pretends to be: it decides which kernels a launcher takes."""

    order: str = "ascending"
    seed: int = 0
    shared_limit: int = 227 << 10
    processors: int = 132
    ignored: tuple[str, int] = ("", 0)  # file and line of a barrier that does nothing

    def configure(self, loaded: ctypes.CDLL) -> None:
        file, line = self.ignored
        order = ORDERS[self.order]
        limits = (self.shared_limit, self.processors)
        loaded.configure(order, self.seed, *limits, file.encode(), line)


class Guarded:
    """An array of NaN between two margins of 0xA5 bytes, the first longer by `shift` elements."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, shift: int = 0):
        size = int(np.prod(shape)) * dtype.itemsize
        self.begin = MARGIN + shift * dtype.itemsize
        self.bytes = np.full(self.begin + size + MARGIN, 0xA5, np.uint8)
        inside = self.bytes[self.begin : self.begin + size]
        inside[:] = 0xFF
        self.array = inside.view(dtype).reshape(shape)

    def check(self) -> None:
        end = self.begin + self.array.nbytes
        assert (self.bytes[: self.begin] == 0xA5).all(), "written before the array"
        assert (self.bytes[end:] == 0xA5).all(), "written behind the array"


def track(loaded: ctypes.CDLL, arrays: Sequence[np.ndarray]) -> None:
    """From now on no two blocks of a launch may change a byte of these arrays."""
    begins = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    sizes = (ctypes.c_size_t * len(arrays))(*(array.nbytes for array in arrays))
    loaded.track(begins, sizes, ctypes.c_size_t(len(arrays)))


RECORD = np.dtype([(name, np.int64) for name in ("launch", "x", "y", "z", "barriers", "fetched")])


@contextmanager
def recording(loaded: ctypes.CDLL, cache_bytes: int = 0) -> Iterator[list[np.ndarray]]:
    """Gives a list that holds, at the end, one array of RECORD with an entry for each block."""
    loaded.start_records(ctypes.c_size_t(cache_bytes))
    found: list[np.ndarray] = []
    yield found
    found.append(np.zeros(loaded.stop_records(), RECORD))
    loaded.read_records(ctypes.c_void_p(found[0].ctypes.data))


def kernels():
    return library(
        Path(__file__).with_name("kernels.cpp"),
        *(f"cuda/{name}.cu" for name in ("products", "solves", "gradients", "squared_error")),
    )


class Network:
    """Layers of one problem in a dtype; its methods run the functions of launchers.h."""

    def __init__(self, loaded, dtype, lus, biases, diagonal, slope, tensor_cores=False):
        self.loaded, self.dtype = loaded, dtype
        self.lus = [rounded(lu, dtype) for lu in lus]
        self.biases = [None if bias is None else rounded(bias, dtype) for bias in biases]
        self.n = len(lus[0])
        self.shift = 0  # elements by which results miss a boundary of 16 bytes
        self.wide = np.dtype("float64" if dtype == "float64" else "float32")
        self.inverses: list[Guarded] = []
        self.forget_inverses()
        self.call = Call(
            scalar=DTYPES[dtype],
            tensor_cores=tensor_cores,
            n=self.n,
            depth=len(lus),
            diagonal=diagonal,
            negative_slope=slope,
        )

    def forget_inverses(self) -> None:
        elements = 2 * -(-self.n // 64) * 64 * 64
        self.inverses = [Guarded((elements,), self.wide) for _ in self.lus]

    def run(self, chip: Chip, function: str, rows: int, results: dict, work=0, sign=1.0, **arrays):
        """Runs `function` on `arrays`; returns `results`, given as {field: shape}, filled."""
        chip.configure(self.loaded)
        call = self.call
        call.rows = rows
        call.sign = sign
        for name in (*POINTERS, *RESULTS):
            setattr(call, name, None)
        for name, array in arrays.items():
            setattr(call, name, array.ctypes.data)
        tables = {}
        inverses = [guarded.array for guarded in self.inverses]
        for name, entries in (("lu", self.lus), ("bias", self.biases), ("inverse", inverses)):
            pointers = [None if entry is None else entry.ctypes.data for entry in entries]
            tables[name] = (ctypes.c_void_p * len(pointers))(*pointers)
            setattr(call, name, ctypes.addressof(tables[name]))
        filled = {
            name: Guarded(shape, self.lus[0].dtype, self.shift) for name, shape in results.items()
        }
        filled["work"] = Guarded((max(work, rows * self.n),), self.wide)
        for name, guarded in filled.items():
            setattr(call, name, guarded.array.ctypes.data)
        run = getattr(self.loaded, f"run_{function}")
        run.restype = ctypes.c_char_p
        written = (*filled.values(), *self.inverses)
        track(self.loaded, [guarded.bytes for guarded in written])
        message = run(ctypes.byref(call)).decode()
        track(self.loaded, [])
        assert not message, message
        for guarded in written:
            guarded.check()
        return [filled[name].array for name in results]

    def gradient_work(self, rows: int) -> int:
        """The elements of work that `weight_gradient` takes."""
        self.loaded.gradient_work.restype = ctypes.c_int64
        self.call.rows = rows
        return self.loaded.gradient_work(ctypes.byref(self.call))

    def is_on_chip(self, rows: int, solves: bool, chip: Chip) -> bool:
        """Whether rows stay on a chip while a network multiplies or solves."""
        chip.configure(self.loaded)
        self.loaded.is_on_chip.restype = ctypes.c_bool
        self.call.rows = rows
        return self.loaded.is_on_chip(ctypes.byref(self.call), ctypes.c_bool(solves))


def squared_error(loaded, chip: Chip, dtype: str, predicted, noise, weight):
    """Returns the losses and the gradient of images (count, size)."""
    count, size = predicted.shape
    wide = np.dtype("float64" if dtype == "float64" else "float32")
    results = [Guarded((count,), wide), Guarded((count, size), predicted.dtype)]
    arrays = (predicted, noise, weight.astype(wide), *(result.array for result in results))
    chip.configure(loaded)
    loaded.run_squared_error.restype = ctypes.c_char_p
    message = loaded.run_squared_error(
        DTYPES[dtype],
        ctypes.c_int64(count),
        ctypes.c_int64(size),
        *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
    ).decode()
    assert not message, message
    for result in results:
        result.check()
    return tuple(result.array for result in results)
