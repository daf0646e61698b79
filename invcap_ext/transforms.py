"""Invertible modules as transforms of `torch.distributions`, zuko, Pyro and sbi."""

from typing import Protocol, cast

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform, _InverseTransform


class Invertible(Protocol):
    """The methods that a transform needs of a module, such as an `InvertibleNetwork`."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def inverse(self, y: Tensor) -> Tensor: ...

    def forward_and_logdet(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse_and_logdet(self, y: Tensor) -> tuple[Tensor, Tensor]: ...


class InvertibleTransform(Transform):
    """y = f(x) of rows (..., n), for a module f that has an inverse and log-determinants.

    A transform is not an `nn.Module`: the parameters belong to the module. `call_and_ladj` (zuko's
    name) returns y and log|det dy/dx| in one pass, and that of `inv` x and log|det dx/dy|.

    Args:
        module: an `InvertibleLinear`, an `InvertibleNetwork` or another `Invertible`.
        cache_size: 1 keeps the last x, y and log-determinant, computed in one pass. They are stale
            after a change of the parameters.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, module: Invertible, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.module = module
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def with_cache(self, cache_size: int = 1) -> "InvertibleTransform":
        """Returns a transform of the same module with this cache size."""
        if cache_size == self._cache_size:
            return self
        return type(self)(self.module, cache_size)

    @property
    def inv(self) -> Transform:
        """The transform from y to x."""
        if self._inv is None:
            self._inv = _Inverse(self)
        return self._inv

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns y (..., n) and log|det dy/dx| (...,)."""
        return self.module.forward_and_logdet(x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log|det dy/dx| (...,) for y = f(x), by a forward pass unless it is cached."""
        if self._last is not None and x is self._last[0] and y is self._last[1]:
            return self._last[2]
        return self.module.forward_and_logdet(x)[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module})"

    def _call(self, x: Tensor) -> Tensor:
        if not self._cache_size:
            return self.module(x)
        y, log_det = self.module.forward_and_logdet(x)
        self._last = x, y, log_det
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        if not self._cache_size:
            return self.module.inverse(y)
        x, log_det = self.module.inverse_and_logdet(y)
        self._last = x, y, -log_det
        return x


class _Inverse(_InverseTransform):
    """torch's inverse, with both results in one pass."""

    def call_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return cast(InvertibleTransform, self._inv).module.inverse_and_logdet(y)
