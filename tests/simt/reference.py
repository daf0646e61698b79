"""The layer in float64, and the arrays that the kernels are given, in any of their dtypes."""

from dataclasses import dataclass

import numpy as np

DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}


def rounded(a: np.ndarray, dtype: str) -> np.ndarray:
    """a in the bits that a kernel sees; bfloat16 as uint16, since numpy has none."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(a, dtype)
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(a: np.ndarray) -> np.ndarray:
    """a in float64."""
    if a.dtype == np.uint16:
        return (a.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return a.astype(np.float64)


@dataclass
class Layer:
    """L, U and b of one layer in float64."""

    lower: np.ndarray
    upper: np.ndarray
    bias: np.ndarray
    slope: float

    @classmethod
    def of(cls, lu: np.ndarray, bias: np.ndarray, diagonal: float, slope: float) -> "Layer":
        c = diagonal * np.eye(len(lu))
        return cls(np.tril(lu, -1) + c, np.triu(lu, 1) + c, bias, slope)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = x @ self.upper.T
        z = h @ self.lower.T + self.bias
        return np.where(z < 0, self.slope * z, z), h

    def inverse(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = np.where(y < 0, y / self.slope, y)
        h = np.linalg.solve(self.lower, (z - self.bias).T).T
        return np.linalg.solve(self.upper, h.T).T, h

    def backward(self, gy: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        gz = np.where(y < 0, self.slope, 1) * gy
        gh = gz @ self.lower
        return gh @ self.upper, gz, gh

    def inverse_backward(
        self, gx: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        gh = np.linalg.solve(self.upper.T, gx.T).T
        gz = np.linalg.solve(self.lower.T, gh.T).T
        return gz / np.where(y < 0, self.slope, 1), gz, gh


def weight_gradient(gz, h, gh, x, sign) -> tuple[np.ndarray, np.ndarray]:
    return sign * (np.tril(gz.T @ h, -1) + np.triu(gh.T @ x, 1)), sign * gz.sum(0)
