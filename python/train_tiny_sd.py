"""Trains tiny-sd, the embedded Stable Diffusion.

    python python/train_tiny_sd.py --output models/tiny-sd

Images held out by the `shapes` split (a tenth, seed 0) are in no part of the training. A run that
was killed resumes when the command is given again.
"""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import StableDiffusionPipeline

from invcap.cli.options import Device, Precision
from invcap.data import decode_images, split_by_group
from invcap.data.settings import DataSettings, load_data
from invcap.data.shapes import WORDINGS, scenes
from invcap.files import write_json
from invcap.hashing import fingerprint
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.networks import assemble
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.tiny_sd.train import Stage, train_denoiser, train_text_encoder, train_vae
from invcap.training.devices import start_processes

logger = logging.getLogger("tiny_sd")


def main(
    output: Annotated[Path, typer.Option(help="Folder for the pipeline.")],
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("runs/tiny-sd"),
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the autoencoder.")] = 600,
    text_steps: Annotated[int, typer.Option(min=1, help="Steps of the text encoder alone.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Steps of UNet and text encoder.")] = 4000,
    judged: Annotated[int, typer.Option(min=1, help="Held-out captions to draw at the end.")] = 500,
    device: Device = "auto",
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise.")] = 0,
) -> None:
    """Trains the autoencoder, the text encoder, and the UNet with both; writes and judges them."""
    processes = start_processes(device, precision)
    data = DataSettings("shapes")
    source = load_data(data)
    examples = list(source.examples)
    train, held_out = split_by_group(examples, data.held_out, data.seed)
    every = list(scenes())
    training, unseen = ([every[i] for i in side] for side in (train, held_out))
    pixels, _, _ = decode_images(examples, data.size)
    tokenizer = train_tokenizer(
        scene.caption(i) for scene in training for i in range(len(WORDINGS))
    )

    def stage(name: str, count: int, **identity: str) -> Stage:
        known = {"data": source.identity, **identity}
        return Stage(count, work / f"{name}.safetensors", known, processes, seed)

    vae, latents = train_vae(torch.from_numpy(pixels[train]), stage("autoencoder", vae_steps))
    text_encoder = train_text_encoder(training, tokenizer, stage("text_encoder", text_steps))
    before = {"autoencoder": fingerprint(vae), "text_encoder": fingerprint(text_encoder)}
    denoiser = train_denoiser(
        latents, training, tokenizer, text_encoder, stage("denoiser", steps, **before)
    )
    if not processes.is_main_process:
        return
    pipeline = assemble(vae, tokenizer, denoiser.text_encoder, denoiser.unet).to("cpu")
    pipeline.unet.half()  # on disk: what loads it makes it float32 again
    pipeline.save_pretrained(output, safe_serialization=True)
    pipeline = StableDiffusionPipeline.from_pretrained(output).to(processes.device)
    pipeline.set_progress_bar_config(disable=True)
    found = {}
    for guidance in (1.0, 2.0, 3.0):
        drawn = draw_scenes(pipeline, unseen[:judged], guidance, steps=25, seed=seed)
        found[f"guidance {guidance}"] = accuracies(drawn, unseen[:judged], pixels, every)
        logger.info("guidance %s: %s", guidance, found[f"guidance {guidance}"])
    write_json(output / "accuracies.json", found)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    typer.run(main)
