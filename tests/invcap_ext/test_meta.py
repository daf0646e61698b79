"""Every pass on tensors without data: device "meta", and fake tensors of a GPU.

torch raises where a tensor of the CPU slips into either.
"""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from invcap_ext import InvertibleLinear, InvertibleNetwork

MODULES = {
    "layer": InvertibleLinear,
    "layer_without_bias": lambda n, **settings: InvertibleLinear(n, bias=False, **settings),
    "store": lambda n, **settings: InvertibleNetwork(n, 3, **settings),
    "recompute": lambda n, **settings: InvertibleNetwork(n, 3, activations="recompute", **settings),
}
PASSES = ("forward", "inverse", "log_abs_det_jacobian")
each_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
each_pass = pytest.mark.parametrize("name", PASSES)


def run(module: nn.Module, name: str, rows: Tensor) -> Tensor:
    if isinstance(module, InvertibleLinear) and name == "log_abs_det_jacobian":
        return module.log_abs_det_jacobian(rows, module(rows))
    return getattr(module, name)(rows)


def result_shape(name: str, rows: Tensor) -> torch.Size:
    return rows.shape[:-1] if name == "log_abs_det_jacobian" else rows.shape


def move_to_fake_gpu_(module: nn.Module) -> None:
    """Gives module parameters on a GPU that is not there, without gradients.

    A graph of such tensors, and `module.to`, need a torch that was built with CUDA.
    """
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            moved = torch.empty_like(parameter, device="cuda")
            setattr(part, name, nn.Parameter(moved, requires_grad=False))


@each_module
@each_pass
@pytest.mark.parametrize("shape", ((9,), (0, 9), (2, 3, 9)), ids=str)
def test_passes_on_meta_have_shapes_and_gradients_and_no_data(make, name, shape) -> None:
    module = make(9, device="meta")
    rows = torch.empty(shape, device="meta", requires_grad=True)
    result = run(module, name, rows)
    assert result.is_meta and result.shape == result_shape(name, rows)
    if name != "log_abs_det_jacobian":
        result.square().sum().backward()
        for leaf in (rows, *module.parameters()):
            assert leaf.grad.is_meta and leaf.grad.shape == leaf.shape


@each_module
@each_pass
@pytest.mark.parametrize("gradients", (True, False))
def test_a_tensor_of_the_cpu_beside_tensors_on_meta_is_an_error(make, name, gradients) -> None:
    rows = torch.empty(2, 9, device="meta")
    with torch.set_grad_enabled(gradients):
        with pytest.raises(ValueError, match="must be on the device of lu, meta, got cpu"):
            run(make(9, device="meta"), name, torch.ones(2, 9))
        with pytest.raises(ValueError, match="must be on the device of lu, cpu, got meta"):
            run(make(9), name, rows)


@pytest.mark.parametrize("activations", ("store", "recompute"))
@pytest.mark.parametrize("gradients", (True, False))
def test_a_bias_of_the_cpu_beside_tensors_on_meta_is_an_error(activations, gradients) -> None:
    network = InvertibleNetwork(9, 2, activations=activations, device="meta")
    network.layers[1].bias = nn.Parameter(torch.ones(9))
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="bias must be on"):
        network(torch.empty(2, 9, device="meta"))


@each_module
@each_pass
@pytest.mark.parametrize("gradients", (True, False))
def test_passes_on_fake_tensors_of_a_gpu_stay_on_it(make, name, gradients) -> None:
    with FakeTensorMode(), torch.set_grad_enabled(gradients):
        module = make(9)
        move_to_fake_gpu_(module)
        rows = torch.empty(2, 3, 9, device="cuda")
        result = run(module, name, rows)
        assert result.device.type == "cuda" and result.shape == result_shape(name, rows)
        with pytest.raises(ValueError, match="must be on the device of lu, cuda:0, got cpu"):
            run(module, name, torch.ones(2, 3, 9))
