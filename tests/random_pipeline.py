"""A Stable Diffusion small enough for tests, with random weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from invcap.tiny_sd.tokenizer import train_tokenizer

WIDTH = 16
SIDE = 16
CHANNELS = 4
STEPS = 50


def make_pipeline(seed: int = 0, **scheduler: object) -> StableDiffusionPipeline:
    """A Stable Diffusion of random weights: pictures of 16 x 16, latents of 4 x 8 x 8."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["a room", "a red square", "a green circle"], merges=30)
    text_encoder = clip(tokenizer, WIDTH, CLIPTextModel, layers=1)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    )
    settings = {
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
    } | scheduler
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(STEPS, 0.00085 * 20, 0.012 * 20, **settings),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def autoencoder(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=0.7,
        **config,
    )


def clip(
    tokenizer: CLIPTokenizer,
    width: int,
    kind: type[Any] = CLIPTextModelWithProjection,
    layers: int = 2,
) -> Any:
    encoder = kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    encoder.get_input_embeddings().weight.data.normal_()
    return encoder
