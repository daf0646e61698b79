"""Trains tiny-sd, the embedded Stable Diffusion.

    python python/train_tiny_sd.py --output models/tiny-sd

Pictures held out by the `shapes` split (a tenth, seed 0) are in no part of the training. A run that
was killed goes on where it was when the command is given again.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from invcap.data.settings import DataSettings, load_split
from invcap.data.shapes import WORDINGS, scenes
from invcap.files import write_json
from invcap.hashing import fingerprint
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.networks import assemble
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.tiny_sd.train import train_denoiser, train_text_encoder, train_vae
from invcap.training.trainer import FitSettings, shown

logger = logging.getLogger("tiny_sd")


def main(
    output: Annotated[Path, typer.Option(help="Folder for the pipeline.")],
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("runs/tiny-sd"),
    vae_steps: Annotated[int, typer.Option(min=1, help="Of the autoencoder.")] = 600,
    text_steps: Annotated[int, typer.Option(min=1, help="Of the text encoder alone.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Of the UNet and text encoder.")] = 4000,
    judged: Annotated[int, typer.Option(min=1, help="Held-out captions to draw at the end.")] = 500,
    seed: Annotated[int, typer.Option(help="Of weights, batches and noise.")] = 0,
) -> None:
    """Trains the autoencoder, the text encoder, and the UNet with both; writes and judges them."""
    split = load_split(DataSettings("shapes"))
    every = list(scenes())
    training, held_out = ([every[i] for i in side] for side in (split.train, split.held_out))
    pixels = split.pixels[split.train]
    tokenizer = train_tokenizer(
        scene.caption(i) for scene in training for i in range(len(WORDINGS))
    )
    with tqdm(total=vae_steps, desc="autoencoder") as bar:
        vae, latents = train_vae(
            pixels,
            FitSettings(vae_steps, seed=seed),
            work / "vae.safetensors",
            f"shapes, {len(pixels)} pictures",
            shown(bar),
        )
    with tqdm(total=text_steps, desc="text encoder") as bar:
        text_encoder = train_text_encoder(
            training,
            tokenizer,
            FitSettings(text_steps, seed=seed),
            work / "text_encoder.safetensors",
            f"shapes, {len(pixels)} pictures",
            shown(bar),
        )
    with tqdm(total=steps, desc="denoiser") as bar:
        denoiser = train_denoiser(
            latents,
            training,
            tokenizer,
            text_encoder,
            FitSettings(steps, seed=seed),
            work / "denoiser.safetensors",
            fingerprint(vae) + fingerprint(text_encoder),
            shown(bar),
        )
    pipeline = assemble(vae, tokenizer, denoiser.text_encoder, denoiser.unet)
    pipeline.unet.half()  # on disk: what loads it makes it float32 again
    pipeline.save_pretrained(output, safe_serialization=True)
    pipeline = StableDiffusionPipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    found = {}
    for guidance in (1.0, 2.0, 3.0):
        drawn = draw_scenes(pipeline, held_out[:judged], guidance, steps=25, seed=seed)
        found[f"guidance {guidance}"] = accuracies(drawn, held_out[:judged], split.pixels, every)
        logger.info("guidance %s: %s", guidance, found[f"guidance {guidance}"])
    write_json(output / "accuracies.json", found)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    typer.run(main)
