"""tiny-sd's training: images to latents and back, words to what they name, noise to latents."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from invcap.data.shapes import COLOURS, PLACES, SHAPES, SIZES, Scene
from invcap.diffusion.schedule import NoiseSchedule
from invcap.encoders.autoencoder import to_unit_range
from invcap.tiny_sd.captions import draw_caption, draw_wording
from invcap.tiny_sd.networks import (
    LATENT_CHANNELS,
    LATENT_SIDE,
    TEXT_WIDTH,
    new_scheduler,
    new_text_encoder,
    new_unet,
    new_vae,
)
from invcap.training.muon import Muon
from invcap.training.trainer import Batch, Draw, Loss, Module, TrainerSettings, train

VAE_BATCH = 32
KL_WEIGHT = 1e-4  # of the mean over latent numbers, beside the mean squared error over pixels
FACTORS = {
    "size": list(SIZES),
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "place": list(PLACES),
    "background": list(COLOURS),
}
CAPTIONS = 64
IMAGES = 32
DRAWS = 2  # of step and noise for each image of a batch: the text is encoded once for all
LATE = 0.7  # steps are drawn as 1000 u^LATE: below 1, more of those where words matter
ENCODED_AT_ONCE = 256
WARMUP = 50
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)


@dataclass(frozen=True)
class Stage:
    """What the three stages of the training have in common.

    Attributes:
        steps: optimizer steps.
        path: of the checkpoint, whose name is the stage's.
        identity: of the data and of what earlier stages gave: a checkpoint of others is refused.
        accelerator: the device, the precision and the processes.
        seed: of weights, batches and noise.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    path: Path
    identity: Mapping[str, Any]
    accelerator: Accelerator
    seed: int = 0
    checkpoint_every: int = 250


def train_stage(
    module: Module, loss: Loss, draw: Draw, batch_size: int, stage: Stage, **weights: float
) -> Module:
    """Trains a module at rates that rise for 50 steps, stay, and fall in the last 30%.

    Args:
        weights: of terms of the loss.

    Returns:
        The moving average of the module, in evaluation mode.
    """
    settings = TrainerSettings(
        stage.steps,
        batch_size,
        warmup=min(1.0, WARMUP / stage.steps),
        decay=0.3,
        average=0.995,
        weights=weights,
        checkpoint_every=stage.checkpoint_every,
        seed=stage.seed,
        name=stage.path.stem,
    )
    optimizers = make_optimizers(module)
    return train(
        module, loss, draw, optimizers, settings, stage.path, stage.identity, stage.accelerator
    ).average


def make_optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon on matrices and convolutions, AdamW on embeddings, norms and biases."""
    embeddings = {part.weight for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim > 1 and p not in embeddings]
    rest = [p for p in module.parameters() if p.ndim == 1 or p in embeddings]
    return [Muon(matrices, 0.02), torch.optim.AdamW(rest, 2e-3, betas=(0.9, 0.99), weight_decay=0)]


def train_vae(pixels: Tensor, stage: Stage) -> tuple[AutoencoderKL, Tensor]:
    """Trains the autoencoder on images (N, 32, 32, 3), and sets its scaling factor.

    Returns:
        The autoencoder, and the scaled latents of the images, (N, 6, 8, 8), of variance 1, on the
        CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        vae = new_vae()

    def draw(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(pixels), (VAE_BATCH,), generator=generator)
        noise = torch.randn(VAE_BATCH, *LATENT_SHAPE, generator=generator)
        return {"pixels": pixels[chosen[part]], "noise": noise[part]}

    vae = train_stage(vae, vae_loss, draw, VAE_BATCH, stage, divergence=KL_WEIGHT)
    latents = encode(vae, pixels)
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return vae, latents * vae.config.scaling_factor


def vae_loss(vae: AutoencoderKL, batch: Batch) -> dict[str, Tensor]:
    """Squared error of images decoded from a draw of their posterior, and its divergence."""
    images = to_unit_range(batch["pixels"])
    posterior = vae.encode(images).latent_dist
    drawn = posterior.mean + posterior.std * batch["noise"]
    return {
        "error": F.mse_loss(vae.decode(drawn).sample, images),
        "divergence": posterior.kl().mean() / posterior.mean[0].numel(),
    }


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Maps images (N, H, W, 3) to means of latents (N, C, h, w), not scaled, on the CPU."""
    batches = pixels.split(ENCODED_AT_ONCE)
    return torch.cat(
        [vae.encode(to_unit_range(b.to(vae.device))).latent_dist.mode().cpu() for b in batches]
    )


class Reader(nn.Module):
    """A text encoder, and what can be read off the mean of its hidden states by linear maps."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder(tokenizer)
        self.heads = nn.ModuleDict(
            {factor: nn.Linear(TEXT_WIDTH, len(names)) for factor, names in FACTORS.items()}
        )


def train_text_encoder(
    scenes: Sequence[Scene], tokenizer: CLIPTokenizer, stage: Stage
) -> CLIPTextModel:
    """Teaches the text encoder to tell which colour, shape, place, ... a caption names.

    Attention in a new UNet looks at all hidden states alike, so this is what their mean should say.
    Trained together from the start, places were still drawn by chance after 4,000 steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        reader = Reader(tokenizer)

    def draw(generator: torch.Generator, part: slice) -> Batch:
        return draw_named(scenes, tokenizer, generator, part)

    return train_stage(reader, reader_loss, draw, CAPTIONS, stage).text_encoder


def draw_named(
    scenes: Sequence[Scene], tokenizer: CLIPTokenizer, generator: torch.Generator, part: slice
) -> Batch:
    """Draws captions of scenes, and for each factor what it is and whether a caption names it.

    Weights of captions are 0 where a factor is not named, and of mean 1 over the whole batch.
    """
    chosen = torch.randint(len(scenes), (CAPTIONS,), generator=generator).tolist()
    said = [(asdict(scenes[i]), draw_wording(generator)) for i in chosen]
    named = torch.tensor(
        [[f"{{{factor}}}" in wording for factor in FACTORS] for _, wording in said]
    )
    values = [[names.index(scene[f]) for f, names in FACTORS.items()] for scene, _ in said]
    return {
        "ids": token_ids(tokenizer, [wording.format(**scene) for scene, wording in said[part]]),
        "values": torch.tensor(values)[part],
        "weights": (named / named.float().mean(0).clamp(min=1 / CAPTIONS))[part],
    }


def reader_loss(reader: Reader, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of each factor's value, over the captions that name it."""
    mean = reader.text_encoder(batch["ids"])[0].mean(1)
    losses = {}
    for column, factor in enumerate(FACTORS):
        values, weights = batch["values"][:, column], batch["weights"][:, column]
        missed = F.cross_entropy(reader.heads[factor](mean), values, reduction="none")
        losses[factor] = (weights * missed).mean() / len(FACTORS)
    return losses


class Denoiser(nn.Module):
    """The text encoder and the UNet, which are trained together."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = new_unet()


def train_denoiser(
    latents: Tensor,
    scenes: Sequence[Scene],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    stage: Stage,
) -> Denoiser:
    """Trains the text encoder further and the UNet to tell the velocity of noisy latents.

    Args:
        latents: (N, 6, 8, 8), scaled.
        scenes: the N scenes that the latents show.
        text_encoder: as `train_text_encoder` gives it; it is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        denoiser = Denoiser(copy.deepcopy(text_encoder))
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def draw(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(latents), (IMAGES,), generator=generator)
        captions = [draw_caption(scenes[i], generator) for i in chosen.tolist()]
        noise = torch.randn(IMAGES, DRAWS, *LATENT_SHAPE, generator=generator)
        steps = draw_steps(IMAGES * DRAWS, generator).view(IMAGES, DRAWS)
        return {
            "latents": latents[chosen[part]],
            "ids": token_ids(tokenizer, captions[part]),
            "noise": noise[part],
            "steps": steps[part],
        }

    trained = train_stage(denoiser, denoiser_loss(), draw, IMAGES, stage)
    return trained.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def denoiser_loss() -> Loss:
    """Squared error of the velocity of noisy latents, with the schedule of noise."""
    schedule = NoiseSchedule.of(new_scheduler())

    def loss(denoiser: Denoiser, batch: Batch) -> dict[str, Tensor]:
        clean = batch["latents"].repeat_interleave(DRAWS, 0)
        noise, steps = batch["noise"].flatten(0, 1), batch["steps"].flatten()
        here = schedule.to(clean.device)
        hidden = denoiser.text_encoder(batch["ids"])[0].repeat_interleave(DRAWS, 0)
        predicted = denoiser.unet(here.noisy(clean, noise, steps), steps, hidden).sample
        velocity = here.noisy(noise, -clean, steps)  # sqrt(abar) e - sqrt(1 - abar) x_0
        return {"velocity": F.mse_loss(predicted, velocity)}

    return loss


def draw_steps(count: int, generator: torch.Generator) -> Tensor:
    """Draws diffusion steps (count,), one from each of equal shares of their distribution."""
    shares = torch.randperm(count, generator=generator)
    u = (shares + torch.rand(count, generator=generator)) / count
    return (1000 * u**LATE).long().clamp(max=999)


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (N, 77), padded and cut as `StableDiffusionPipeline` does it."""
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
