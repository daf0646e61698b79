"""The flows that `density.py` compares, each as log_prob(x) and inverse(noise)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import zuko
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    LULinear,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
)
from torch import Tensor, nn

from invcap_ext import InvertibleNetwork
from invcap_ext.flow import flow_network, spread_kinks
from invcap_ext.lazy import ConditionalNetwork


class Density(nn.Module):
    """log p(x) of rows x (rows, n), and the rows that standard normal noise (rows, n) becomes."""

    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def inverse(self, noise: Tensor) -> Tensor:
        raise NotImplementedError


class OfNetwork(Density):
    """Of a module with `forward_and_logdet` and `inverse`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def log_prob(self, x: Tensor) -> Tensor:
        noise, log_det = self.network.forward_and_logdet(x)
        return log_normal(noise) + log_det

    def inverse(self, noise: Tensor) -> Tensor:
        return self.network.inverse(noise)


class OneAfterAnother(Density):
    """p(x_1) p(x_2 | x_1) of two features: the first is the context of the second's network."""

    def __init__(self, x: Tensor, depth: int, corner: float) -> None:
        super().__init__()
        self.first = flow_network(1, depth, corner=corner)
        self.second = ConditionalNetwork(1, 1, depth, corner=corner)
        spread_kinks(self.first, x[:, :1])
        spread_kinks(self.second.network, x[:, 1:])

    def log_prob(self, x: Tensor) -> Tensor:
        given = x[:, :1]
        first, first_log_det = self.first.forward_and_logdet(given)
        second, second_log_det = self.second(given).call_and_ladj(x[:, 1:])
        return log_normal(torch.cat([first, second], 1)) + first_log_det + second_log_det

    def inverse(self, noise: Tensor) -> Tensor:
        first = self.first.inverse(noise[:, :1])
        return torch.cat([first, self.second(first).inv(noise[:, 1:])], 1)


class OfZuko(Density):
    def __init__(self, flow: zuko.lazy.Flow) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x)

    def inverse(self, noise: Tensor) -> Tensor:
        return self.flow().transform.inv(noise)


class OfNflows(Density):
    """Neural spline flow with LU layers, as of Durkan et al. (2019)."""

    def __init__(self, features: int, transforms: int, hidden: int) -> None:
        super().__init__()
        mask = torch.arange(features) % 2

        def net(inputs: int, outputs: int) -> ResidualNet:
            return ResidualNet(inputs, outputs, hidden_features=hidden, num_blocks=1)

        steps = [
            step
            for index in range(transforms)
            for step in (
                RandomPermutation(features),
                LULinear(features, identity_init=True),
                PiecewiseRationalQuadraticCouplingTransform(
                    (mask + index) % 2, net, num_bins=8, tails="linear", tail_bound=5.0
                ),
            )
        ]
        self.flow = Flow(CompositeTransform(steps), StandardNormal([features]))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)

    def inverse(self, noise: Tensor) -> Tensor:
        return self.flow._transform.inverse(noise)[0]


def log_normal(noise: Tensor) -> Tensor:
    return -0.5 * noise.square().sum(-1) - 0.5 * noise.shape[-1] * math.log(2 * math.pi)


@dataclass(frozen=True)
class Method:
    """How a density is made from training rows, and its learning rates.

    `triangle_lr` is Muon's for L and U, with Adam for the rest; None for Adam alone.
    """

    make: Callable[[Tensor], Density]
    lr: float
    triangle_lr: float | None = None


def rounded(x: Tensor, depth: int, corner: float) -> Density:
    network = flow_network(x.shape[1], depth, corner=corner)
    spread_kinks(network, x)
    return OfNetwork(network)


def sharp(x: Tensor, depth: int) -> Density:
    features = x.shape[1]
    return OfNetwork(
        InvertibleNetwork(features, depth, negative_slope=0.5, scale=True, bandwidth=0.1)
    )


def peers(features: int, hidden: int, lr: float) -> dict[str, Method]:
    size = (hidden, hidden)
    nsf, maf = zuko.flows.NSF, zuko.flows.MAF
    return {
        "NSF, autoregressive, 3 transforms (zuko)": Method(
            lambda _: OfZuko(nsf(features, transforms=3, hidden_features=size)), lr
        ),
        "NSF, coupling, 5 transforms (zuko)": Method(
            lambda _: OfZuko(nsf(features, transforms=5, hidden_features=size, passes=2)), lr
        ),
        "MAF, 5 transforms (zuko)": Method(
            lambda _: OfZuko(maf(features, transforms=5, hidden_features=size)), lr
        ),
        "LU and coupling splines, 5 of each (nflows)": Method(
            lambda _: OfNflows(features, 5, hidden), lr
        ),
    }


TOYS = {
    "flow_network, depth 16": Method(lambda x: rounded(x, 16, corner=0.1), 5e-2, 1e-2),
    "flow_network, depth 16, feature after feature": Method(
        lambda x: OneAfterAnother(x, 16, corner=0.1), 1e-2
    ),
    "InvertibleNetwork, depth 16": Method(lambda x: sharp(x, 16), 5e-2, 1e-2),
    **peers(2, hidden=64, lr=2e-3),
}
DIGITS = {
    "flow_network, depth 12": Method(lambda x: rounded(x, 12, corner=0.3), 1e-1, 1e-2),
    "InvertibleNetwork, depth 12": Method(lambda x: sharp(x, 12), 5e-2, 1e-2),
    **peers(64, hidden=128, lr=1e-3),
}
