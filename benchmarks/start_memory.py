"""Peak memory of learning starts for a model of Stable Diffusion 1.5's width, on random weights.

    python benchmarks/start_memory.py

Hidden states have 77 x 768 numbers and latents 4 x 64 x 64; the UNet and the text encoder are small
stand-ins, so that what remains is the memory of the starts, their training and their data.
"""

from __future__ import annotations

import tempfile
from math import prod
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from layer_speed import peak_resident
from transformers import CLIPTextConfig, CLIPTextModel

from invcap.data.shapes import WORDINGS, scenes
from invcap.diffusion.families import stable_diffusion
from invcap.diffusion.model import FrozenTextToImage
from invcap.prompt_inversion.meta import MetaSettings
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.train_amortised import AmortisedSettings
from invcap.prompt_inversion.train_starts import learn_starts
from invcap.tiny_sd.stable_diffusion import new_scheduler
from invcap.tiny_sd.tokenizer import train_tokenizer

WIDTH = 768
LATENTS = (4, 64, 64)


def make_model() -> FrozenTextToImage:
    """Random networks of Stable Diffusion 1.5's width, but few layers and narrow inside."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(scene.caption() for scene in list(scenes())[::100])
    unet = UNet2DConditionModel(
        sample_size=LATENTS[1],
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        latent_channels=LATENTS[0],
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text_encoder.get_input_embeddings().weight.data.normal_()
    return stable_diffusion(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
    )


def main(
    images: Annotated[int, typer.Option(help="Random latents, each with a caption.")] = 4096,
    steps: Annotated[int, typer.Option(help="Steps of each stage; all take the same memory.")] = 2,
) -> None:
    """Learns starts, twice, and prints the largest resident memory of this process.

    The second time every stage resumes at its end, from a checkpoint that is read.
    """
    model = make_model()
    latents = torch.randn(images, prod(LATENTS))
    every = list(scenes())
    captions = [
        every[at * len(every) // images].caption(at % len(WORDINGS)) for at in range(images)
    ]
    inner = InversionSettings(steps=2, draws=2, bank=4, held_out=2)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            learn_starts(
                model,
                latents,
                LATENTS,
                captions,
                AmortisedSettings(caption_steps=steps, steps=steps),
                MetaSettings(rounds=1, inner=inner),
                {},
                Path(folder) / "starts",
                Path(folder),
                Accelerator(cpu=True),
            )
    typer.echo(f"peak resident memory: {peak_resident() / 1e9:.2f} GB")


if __name__ == "__main__":
    typer.run(main)
