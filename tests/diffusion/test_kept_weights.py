"""Weights that are kept in one dtype or place, and computed with in another."""

import weakref
from typing import Any

import pytest
import torch
from PIL import Image
from random_pipeline import SIDE
from tiny_pipelines import MAKERS, make
from torch import Tensor, nn

from invcap.diffusion.families import frozen, load_model
from invcap.diffusion.kept_weights import KeptWeight, keep_weights
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline

META = torch.device("meta")
PROMPT = "a red square"


@pytest.fixture(scope="module", params=[*MAKERS])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / request.param
    make(request.param).save_pretrained(path)
    return path


def stored(model: FrozenTextToImage) -> set[torch.dtype]:
    """Dtypes in which a model's weights and buffers of two and more axes are stored."""
    weights = [
        weight
        for network in model.networks
        for weight in [*network.parameters(), *network.buffers()]
        if weight.ndim > 1 and weight.is_floating_point()
    ]
    return {
        weight.kept.dtype if isinstance(weight, KeptWeight) else weight.dtype for weight in weights
    }


def results(model: FrozenTextToImage) -> list[Tensor]:
    """What a model computes, and gradients of it."""
    generator = torch.Generator().manual_seed(0)
    prompt = model.encode_prompts([PROMPT]).map(lambda tensor: tensor.requires_grad_())
    steps = torch.tensor([20.5 if hasattr(model, "predict_velocity") else 20])
    found = model.predict_noise(torch.randn(1, 4, 8, 8, generator=generator), steps, prompt)
    found.sum().backward()
    vectors = model.token_table[model.tokenize(PROMPT)][None].requires_grad_()
    encoded = model.encode_tokens(vectors).tensors.values()
    (gradient,) = torch.autograd.grad(sum(tensor.sum() for tensor in encoded), vectors)
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=generator)
    prompts = prompt.tensors.values()
    return [
        *(tensor.detach() for tensor in prompts),
        *(tensor.grad for tensor in prompts),
        *(found.detach(), gradient, model.encode_pixels(pixels), model.token_table),
    ]


def test_weights_of_half_precision_compute_as_if_they_were_single(folder):
    kept = load_model(folder, dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert kept.dtype == torch.float32 and stored(kept) == {torch.bfloat16}
    plain = load_model(folder, dtype=torch.bfloat16)
    for network in plain.networks:
        network.to(torch.float32)
    for found, expected in zip(results(kept), results(plain), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert stored(kept) == {torch.bfloat16}


@pytest.mark.slow
def test_an_inversion_in_single_precision_of_half_precision_weights(folder):
    options = {"dtype": torch.bfloat16}
    kept = PromptInversionPipeline.from_pretrained(folder, compute_dtype=torch.float32, **options)
    plain = PromptInversionPipeline.from_pretrained(folder, **options)
    for network in plain.model.networks:
        network.to(torch.float32)
    kept.model.denoiser.enable_gradient_checkpointing()
    settings = InversionSettings(steps=2, draws=2, bank=4, held_out=4, snapshots=0)
    size, image = (SIDE, SIDE), Image.new("RGB", (SIDE, SIDE), "red")
    found, expected = (
        pipeline.invert(image, PROMPT, settings, "token_vectors", size=size, num_inference_steps=1)
        for pipeline in (kept, plain)
    )
    assert found.histories == expected.histories
    assert found.images[0].tobytes() == expected.images[0].tobytes()


@pytest.mark.parametrize("family", [name for name in MAKERS if name != "ZImage"])
def test_a_gradient_is_computed_where_the_weights_are_not(family):
    """On "meta", where torch raises if a tensor of the CPU slips in; Z-Image reads values."""
    model = frozen(make(family))
    prompt = model.encode_prompts([PROMPT]).to("meta").map(lambda tensor: tensor.requires_grad_())
    model.enable_group_offload("meta")
    assert model.device == META
    steps = torch.tensor([20], device=META)
    found = model.predict_noise(torch.empty(1, 4, 8, 8, device=META), steps, prompt)
    found.sum().backward()
    for tensor in prompt.tensors.values():
        assert tensor.grad.shape == tensor.shape
    pixels = torch.empty(1, 3, SIDE, SIDE)
    assert model.encode_pixels(pixels).device == META
    large = [
        weight for network in model.networks for weight in network.parameters() if weight.ndim > 1
    ]
    assert large and all(weight.kept.device.type == "cpu" for weight in large)


@pytest.mark.slow
def test_layers_that_are_offloaded_give_the_same(folder):
    found = results(load_model(folder).enable_group_offload("cpu"))
    for one, other in zip(found, results(load_model(folder)), strict=True):
        assert torch.equal(one, other)


def test_only_the_layer_that_computes_has_its_weight_in_full(monkeypatch):
    """No converted weight outlives its operation, in the backward pass too."""
    chain = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5))).to(torch.bfloat16)
    keep_weights(chain, dtype=torch.float32)
    alive: list[Any] = []
    most = 0

    def watched(self: KeptWeight) -> Tensor:
        nonlocal most
        found = converted(self)
        alive.append(weakref.ref(found))
        most = max(most, sum(each() is not None for each in alive))
        return found

    converted = KeptWeight.converted
    monkeypatch.setattr(KeptWeight, "converted", watched)
    x = torch.randn(2, 8, requires_grad=True)
    chain(x).sum().backward()
    assert len(alive) == 10 and most == 1
    assert x.grad.abs().max() > 0


def test_kept_weights_move_and_are_cast():
    layer = nn.Linear(4, 3).to(torch.bfloat16)
    weight = layer.weight.detach()
    keep_weights(layer, dtype=torch.float32)
    keep_weights(layer, torch.device("cpu"))
    assert isinstance(layer.weight, nn.Parameter) and layer.bias.dtype == torch.float32
    assert layer.weight.kept.dtype == torch.bfloat16
    assert torch.equal(layer.weight.double(), weight.double())
    layer.to("meta")
    assert layer.weight.kept.device == META and layer.weight.dtype == torch.float32
