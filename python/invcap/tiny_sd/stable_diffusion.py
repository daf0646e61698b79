"""tiny-sd: Stable Diffusion's networks, small, with random weights, and how they are trained."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from invcap.diffusion.schedule import NoiseSchedule
from invcap.tiny_sd.autoencoder import LATENT_CHANNELS, LATENT_SIDE
from invcap.tiny_sd.text import text_config

TOKENS = 77
TEXT_WIDTH = 64


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids (N, 77) to hidden states (N, 77, 64)."""
    return CLIPTextModel(text_config(tokenizer, TEXT_WIDTH))


def new_unet() -> UNet2DConditionModel:
    """Noisy latents (N, 6, 8, 8), steps (N,), hidden states (N, 77, 64) to velocity.

    Its lowest level is 2 x 2: padding alone tells a convolution where it is, and there every place
    is a corner of its own.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule of noise; the UNet predicts velocity, as Stable Diffusion 2 does.

    Where an image is nearly all noise, the noise itself hardly says what the words change, such as
    the place of the shape; velocity there is the image.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Text(nn.Module):
    """Token ids (N, 77) to hidden states (N, 77, 64); no pooled embedding."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        return self.text_encoder(ids)[0], None


class Denoiser(nn.Module):
    """Text encoder and UNet, which are trained together to tell the velocity of noisy latents."""

    def __init__(self, text: Text, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text = text
        self.unet = unet.to(memory_format=torch.channels_last)
        self.schedule = NoiseSchedule.of(new_scheduler())

    @classmethod
    def new(cls, tokenizer: CLIPTokenizer) -> Denoiser:
        return cls(Text(new_text_encoder(tokenizer)), new_unet())

    @classmethod
    def of(cls, pipeline: StableDiffusionPipeline) -> Denoiser:
        return cls(Text(pipeline.text_encoder), pipeline.unet)

    def error(self, latents: Tensor, ids: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Squared error of the velocity sqrt(abar) e - sqrt(1 - abar) x_0, for D draws a latent.

        Args:
            latents: x_0, (N, C, h, w).
            ids: of the captions, (N, n).
            noise: e, (N, D, C, h, w).
            times: shares of the schedule, (N, D), in [0, 1).
        """
        draws = noise.shape[1]
        clean, noise = latents.repeat_interleave(draws, 0), noise.flatten(0, 1)
        steps = (times.flatten() * len(self.schedule)).long()
        hidden = self.text(ids)[0].repeat_interleave(draws, 0)
        here = self.schedule.to(clean.device)
        predicted = self.unet(here.noisy(clean, noise, steps), steps, hidden).sample
        return F.mse_loss(predicted, here.noisy(noise, -clean, steps))

    def assemble(self, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
        """A pipeline of these parts, without safety checker; the UNet in half precision."""
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=self.text.text_encoder,
            tokenizer=tokenizer,
            unet=self.unet.to(torch.float16, memory_format=torch.contiguous_format),
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
