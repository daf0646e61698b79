"""Muon: momentum steps whose matrix is replaced by the nearest orthogonal one.

torch.optim.Muon iterates in bfloat16, which takes some hundred times as long as float32 on a
processor without bfloat16 arithmetic; this one works in the parameter's own precision.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the iteration x -> a x + b x^3 + c x^5 on singular values, chosen for a steep slope at zero.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum, for matrices and for convolutions, whose first axis counts as rows.

    Args:
        params: weights of at least two axes.
        lr: step size, in spectral norm.
        momentum: decay of the average of gradients (Nesterov's form).
        weight_decay: share of lr that a matrix shrinks by at each step.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum, state = group["momentum"], self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"]
        average.lerp_(gradient, 1 - momentum)
        direction = orthogonalized(gradient.lerp(average, momentum))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])


def orthogonalized(weight: Tensor) -> Tensor:
    """Pushes the singular values of a weight towards 1 by five Newton-Schulz iterations.

    They end between 0.7 and 1.2; that is enough for a step direction. A matrix of more rows than
    columns is scaled up by the root of their ratio, so that its output changes as a square one's.
    """
    a, b, c = NEWTON_SCHULZ
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    x = matrix if rows <= columns else matrix.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x if rows <= columns else x.mT * (rows / columns) ** 0.5
    return x.reshape(weight.shape)
