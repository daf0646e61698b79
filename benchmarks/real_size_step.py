"""Memory of a score and of a gradient step on models of real size.

    python benchmarks/real_size_step.py --model sdxl --dtype bfloat16 --compute-dtype float32 \
        --gradient-checkpointing

The networks have the public configurations of CompVis/stable-diffusion-v1-4,
stabilityai/stable-diffusion-xl-base-1.0 and stabilityai/stable-diffusion-3-medium (without T5,
which may be left out), and random weights; the image is 512 x 512. Prints the memory of the
weights, the most that the process held until a score was done and until a gradient step was done,
and their seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from layer_speed import peak_resident
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from invcap.data.shapes import Scene, draw
from invcap.diffusion.families import frozen
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.objective import Objective
from invcap.prompt_inversion.optimizer import take_step
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.state import State
from invcap.tiny_sd.tokenizer import train_tokenizer

SIZE = (512, 512)
PROMPT = "a room"


def autoencoder(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        **{"latent_channels": 4, "sample_size": 512, **config},
    )


def clip_l(kind: Any = CLIPTextModel) -> Any:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )
    return kind(config)


def clip_g() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
        hidden_act="gelu",
    )
    return CLIPTextModelWithProjection(config)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1)


def sd14() -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_l(),
        tokenizer=train_tokenizer([PROMPT]),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> StableDiffusionXLPipeline:
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(sample_size=1024),
        text_encoder=clip_l(),
        text_encoder_2=clip_g(),
        tokenizer=train_tokenizer([PROMPT]),
        tokenizer_2=train_tokenizer([PROMPT]),
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )


def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
    )
    vae = autoencoder(
        sample_size=1024, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
    )
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=clip_l(CLIPTextModelWithProjection),
        text_encoder_2=clip_g(),
        text_encoder_3=None,
        tokenizer=train_tokenizer([PROMPT]),
        tokenizer_2=train_tokenizer([PROMPT]),
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


MODELS: dict[str, Callable[[], Any]] = {"sd14": sd14, "sdxl": sdxl, "sd3": sd3}


def build(name: str, dtype: torch.dtype) -> Any:
    """A pipeline of random weights, which are made in a dtype."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return MODELS[name]()
    finally:
        torch.set_default_dtype(before)


def gradient_step(model: FrozenTextToImage, latents: torch.Tensor) -> None:
    """One step of an inversion, of one evaluation with gradient."""
    settings = InversionSettings(steps=1, draws=1, bank=1, held_out=2)
    vectors, conditioning_of = parametrize(model, [PROMPT], "hidden_states")
    objective = Objective(model, latents, conditioning_of, [0], settings)
    take_step(objective, State.start(vectors), torch.arange(1), settings)


def main(
    model: Annotated[str, typer.Option(help="sd14, sdxl or sd3.")] = "sd14",
    dtype: Annotated[str, typer.Option(help="Of weights: float32 or bfloat16.")] = "float32",
    compute_dtype: Annotated[
        str | None, typer.Option(help="Of arithmetic, by default that of weights.")
    ] = None,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    attention_slicing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    gradient: Annotated[bool, typer.Option(help="Take a gradient step after the score.")] = True,
) -> None:
    """Measures a score and a gradient step at 512 x 512."""
    built = frozen(build(model, getattr(torch, dtype)))
    weights = {
        network: sum(weight.numel() for weight in part.parameters())
        for network, part in built.pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    bytes_of_weights = sum(weights.values()) * getattr(torch, dtype).itemsize
    if compute_dtype is not None:
        built.compute_in(getattr(torch, compute_dtype))
    if gradient_checkpointing:
        built.denoiser.enable_gradient_checkpointing()
    if attention_slicing:
        built.pipeline.enable_attention_slicing()
    image = draw(Scene("large", "red", "square", "in the center", "gray"), SIZE[0])
    result: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "compute_dtype": compute_dtype or dtype,
        "gradient_checkpointing": gradient_checkpointing,
        "attention_slicing": attention_slicing,
        "parameters": weights,
        "weights_gib": bytes_of_weights / 2**30,
        "built_peak_gib": peak_resident() / 2**30,
    }

    def measure(name: str, work: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        work()
        result[f"{name}_seconds"] = time.perf_counter() - begun
        result[f"{name}_peak_gib"] = peak_resident() / 2**30

    pipeline = PromptInversionPipeline(built)
    measure("score", lambda: pipeline.log_likelihood(image, [PROMPT], 2, size=SIZE))
    result["score_above_weights_gib"] = (peak_resident() - bytes_of_weights) / 2**30
    if gradient:
        latents = built.encode_images(image, SIZE)
        measure("gradient", lambda: gradient_step(built, latents))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
