"""Every training step, but the captioner's, on devices without data: "meta", and fakes of a GPU.

torch raises where a tensor of the CPU slips into either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator
from fake_gpu import fake_gpu, move_without_data
from random_pipeline import make_pipeline
from torch import Tensor, nn

from invcap.data.shapes import scenes
from invcap.diffusion.families import frozen
from invcap.encoders import autoencoder
from invcap.prompt_inversion import train_amortised
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.tiny_sd import denoiser, stable_diffusion, stable_diffusion_3, text
from invcap.tiny_sd.autoencoder import new_vae, vae_loss
from invcap.tiny_sd.stage import make_optimizers
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.training.trainer import Batch, Loss, LossModule, TrainerSettings, take_step

SETTINGS = TrainerSettings(2, 4)


@dataclass
class Step:
    """What one training trains: a module, its batches, its loss and the modules in that."""

    module: nn.Module
    batch: Batch
    loss: Callable[[], Loss]
    optimizers: Callable[[], list[torch.optim.Optimizer]]
    frozen: tuple[nn.Module, ...] = ()

    def move(self, device: str) -> None:
        """Leaves the data of all behind."""
        for module in (self.module, *self.frozen):
            move_without_data(module, device)
        self.batch = {
            name: torch.empty(value.shape, dtype=value.dtype, device=device)
            for name, value in self.batch.items()
        }


def small_autoencoder() -> Step:
    model = autoencoder.ConvAutoencoder(latent_channels=2, channels=8)
    settings = autoencoder.AutoencoderSettings()
    batch = {"pixels": torch.empty(4, 16, 16, 3, dtype=torch.uint8), "noise": floats(4, 2, 4, 4)}
    return Step(
        model,
        batch,
        lambda: autoencoder.reconstruction_loss,
        lambda: autoencoder.make_optimizers(model, settings),
    )


def tiny_sd_stage(module: nn.Module, batch: Batch, loss: Loss, *frozen: nn.Module) -> Step:
    return Step(module, batch, lambda: loss, lambda: make_optimizers(module), frozen)


def tiny_sd_autoencoder() -> Step:
    batch = {"pixels": torch.empty(4, 32, 32, 3, dtype=torch.uint8), "noise": floats(4, 6, 8, 8)}
    return tiny_sd_stage(new_vae(), batch, vae_loss)


def tiny_sd_text(family: ModuleType) -> Step:
    tokenizer = train_tokenizer(["a room"], length=family.TOKENS)
    some, generator = list(scenes())[:9], torch.Generator()
    batch = text.draw_named(some, tokenizer, generator, slice(0, 4))
    reader = text.Reader(family.Denoiser.new(tokenizer).text, tokenizer)
    return tiny_sd_stage(reader, batch, text.reader_loss)


def tiny_sd_denoiser(family: ModuleType) -> Step:
    batch = {
        "pixels": torch.empty(4, 32, 32, 3, dtype=torch.uint8),
        "ids": torch.empty(4, family.TOKENS, dtype=torch.int64),
        "noise": floats(4, denoiser.DRAWS, 6, 8, 8),
        "times": floats(4, denoiser.DRAWS),
    }
    vae = new_vae()
    module = family.Denoiser.new(train_tokenizer(["a room"], length=family.TOKENS))
    return tiny_sd_stage(module, batch, denoiser.denoiser_loss(vae), vae)


def amortised_captions() -> Step:
    start = AmortisedStart((4, 8, 8), (77, 16), codes=5)
    batch = {"latents": floats(4, 4, 8, 8), "codes": floats(4, 5)}
    loss = train_amortised.caption_loss(torch.ones(9, 5))
    return Step(start, batch, lambda: loss, lambda: train_amortised.caption_optimizers(start))


def amortised_bound() -> Step:
    pipeline = make_pipeline()
    start = AmortisedStart((4, 8, 8), (77, 16), codes=5)
    batch = {
        "latents": floats(4, 4, 8, 8),
        "noise": floats(4, 4, 8, 8),
        "steps": torch.empty(4, dtype=torch.int64),
    }
    settings = train_amortised.AmortisedSettings()
    model = frozen(pipeline)
    return Step(
        start,
        batch,
        lambda: train_amortised.bound_loss(model),
        lambda: train_amortised.bound_optimizers(start, settings),
        (pipeline.unet, pipeline.text_encoder),
    )


def floats(*shape: int) -> Tensor:
    return torch.empty(prod(shape)).view(shape)


each_step = pytest.mark.parametrize(
    "make",
    [
        small_autoencoder,
        tiny_sd_autoencoder,
        pytest.param(partial(tiny_sd_text, stable_diffusion), id="tiny_sd_text"),
        pytest.param(partial(tiny_sd_text, stable_diffusion_3), id="tiny_sd3_text"),
        pytest.param(
            partial(tiny_sd_denoiser, stable_diffusion), id="tiny_sd", marks=pytest.mark.slow
        ),
        pytest.param(
            partial(tiny_sd_denoiser, stable_diffusion_3), id="tiny_sd3", marks=pytest.mark.slow
        ),
        amortised_captions,
        amortised_bound,
    ],
)


@pytest.mark.slow
@each_step
def test_a_step_forward_and_backward_stays_on_its_device(make):
    step = make()
    step.move("meta")
    optimizers = step.optimizers()
    held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    for parameter in held:
        parameter.requires_grad_()
    forward = LossModule(step.module.train(), step.loss())
    accelerator = Accelerator(cpu=True)
    losses = take_step(forward, [step.batch], [1.0], optimizers, SETTINGS, accelerator)
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    states = [value for o in optimizers for state in o.state.values() for value in state.values()]
    assert {state.device.type for state in states if state.ndim} == {"meta"}
    assert all(
        any(weight is parameter for o in optimizers for weight in o.state) for parameter in held
    )


@each_step
def test_losses_are_computed_on_a_gpu(make):
    step = make()
    with fake_gpu():
        step.move("cuda")
        # Statistics of a batch, as of batch normalization, ask for a GPU that is there.
        losses = step.loss()(step.module.eval(), step.batch)
        assert {loss.device.type for loss in losses.values()} == {"cuda"}
        assert {loss.ndim for loss in losses.values()} == {0}
