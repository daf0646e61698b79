"""One gradient step of prompt inversion on a model of Stable Diffusion 1.4's real size.

    python benchmarks/sd14_step.py

The networks have the public configuration of CompVis/stable-diffusion-v1-4 and random weights;
the picture is 256 x 256. Prints seconds a step and the most memory that the process ever held.
"""

import json
import resource
import time
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from invcap.data.shapes import Scene, draw
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.tiny_sd.tokenizer import train_tokenizer

SIZE = (256, 256)


def networks() -> dict[str, nn.Module]:
    """Random weights in the shapes of Stable Diffusion 1.4, in torch's default dtype."""
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )
    return {
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ),
        "text_encoder": CLIPTextModel(text),
        "unet": UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        ),
    }


def main(
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 2,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    attention_slicing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
) -> None:
    """Measures a step at 256 x 256 on Stable Diffusion 1.4's shapes."""
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    parts = networks()
    torch.set_default_dtype(torch.float32)
    scheduler = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1
    )
    pipeline = PromptInversionPipeline(
        tokenizer=train_tokenizer(["a room"]), scheduler=scheduler, **parts
    )
    pipeline.model.max_batch = 1
    if gradient_checkpointing:
        pipeline.model.denoiser.enable_gradient_checkpointing()
    if attention_slicing:
        pipeline.text_to_image.enable_attention_slicing()
    times = [time.perf_counter()]
    found = pipeline.invert(
        draw(Scene("large", "red", "square", "in the center", "gray"), SIZE[0]),
        "a room",
        InversionSettings(steps=steps, draws=1, bank=8, held_out=2, snapshots=0),
        size=SIZE,
        num_inference_steps=1,
        callback_on_step_end=lambda *_: times.append(time.perf_counter()),
    )
    result = {
        "parameters": {
            name: sum(weight.numel() for weight in network.parameters())
            for name, network in parts.items()
        },
        "dtype": dtype,
        "gradient_checkpointing": gradient_checkpointing,
        "attention_slicing": attention_slicing,
        "seconds_a_step": times[-1] - times[-2],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "bounds": found.histories[0].held_out,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
