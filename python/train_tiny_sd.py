"""Trains the embedded models: tiny-sd, a Stable Diffusion, and tiny-sd3, a Stable Diffusion 3.

    python python/train_tiny_sd.py --output models/tiny-sd
    python python/train_tiny_sd.py --family sd3 --vae models/tiny-sd/vae --output models/tiny-sd3

Every picture of the training is a new drawing of a scene. Scenes held out by the `shapes` split (a
tenth, seed 0) are in no part of it. A run that was killed resumes when the command is given again.
"""

import copy
import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, DiffusionPipeline

from invcap.cli.options import Device, Precision
from invcap.data import split_by_group
from invcap.data.settings import DataSettings, load_data
from invcap.data.shapes import WORDINGS, scenes
from invcap.diffusion.families import load_model
from invcap.files import write_json
from invcap.hashing import fingerprint
from invcap.tiny_sd import stable_diffusion, stable_diffusion_3
from invcap.tiny_sd.autoencoder import new_vae, train_vae
from invcap.tiny_sd.denoiser import train_denoiser
from invcap.tiny_sd.evaluate import accuracies, draw_scenes
from invcap.tiny_sd.stage import Stage
from invcap.tiny_sd.text import train_text
from invcap.tiny_sd.tokenizer import train_tokenizer
from invcap.training.devices import start_processes

logger = logging.getLogger("tiny_sd")


class Family(str, Enum):
    """The models that can be trained."""

    SD = "sd"
    SD3 = "sd3"


NETWORKS = {Family.SD: stable_diffusion, Family.SD3: stable_diffusion_3}


def main(
    output: Annotated[Path, typer.Option(help="Folder for the pipeline.")],
    family: Annotated[Family, typer.Option(help="Stable Diffusion or Stable Diffusion 3.")] = (
        Family.SD
    ),
    start: Annotated[
        Path | None,
        typer.Option(help="Pipeline of the same networks to begin with, not random weights."),
    ] = None,
    trained_vae: Annotated[
        Path | None, typer.Option("--vae", help="Folder of an autoencoder, used as it is.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("runs/tiny-sd"),
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the autoencoder.")] = 1500,
    text_steps: Annotated[int, typer.Option(min=1, help="Steps of text encoders alone.")] = 600,
    steps: Annotated[int, typer.Option(min=1, help="Steps of denoiser and text encoders.")] = 6000,
    judged: Annotated[int, typer.Option(min=1, help="Held-out captions to draw at the end.")] = 500,
    device: Device = "auto",
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise.")] = 0,
) -> None:
    """Trains autoencoder, text encoders, and the denoiser with these; writes and judges them.

    With `--start`, text encoders are trained with the denoiser only.
    """
    processes = start_processes(device, precision)
    data = DataSettings("shapes")
    source = load_data(data)
    train, held_out = split_by_group(list(source.examples), data.held_out, data.seed)
    every = list(scenes())
    training, unseen = ([every[i] for i in side] for side in (train, held_out))
    networks = NETWORKS[family]
    begun = DiffusionPipeline.from_pretrained(start) if start else None
    tokenizer = train_tokenizer(
        (scene.caption(i) for scene in training for i in range(len(WORDINGS))),
        length=networks.TOKENS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = begun.vae.float() if begun else new_vae()
        denoiser = networks.Denoiser.of(begun) if begun else networks.Denoiser.new(tokenizer)
    denoiser.float()

    def stage(name: str, count: int, **identity: str) -> Stage:
        known = {"data": source.identity, **identity}
        return Stage(count, work / f"{name}.safetensors", known, processes, seed)

    if trained_vae:
        vae = AutoencoderKL.from_pretrained(trained_vae)
    else:
        vae = train_vae(vae, training, stage("autoencoder", vae_steps, start=fingerprint(vae)))
    if begun is None:
        text = denoiser.text
        denoiser.text = copy.deepcopy(
            train_text(text, training, tokenizer, stage("text", text_steps))
        )
    before = {"autoencoder": fingerprint(vae), "start": fingerprint(denoiser)}
    denoiser = train_denoiser(
        denoiser, vae, training, tokenizer, stage("denoiser", steps, **before)
    )
    if not processes.is_main_process:
        return
    denoiser.to("cpu").assemble(vae.to("cpu"), tokenizer).save_pretrained(output)
    pipeline = load_model(output, dtype=torch.float32).pipeline.to(processes.device)
    pipeline.set_progress_bar_config(disable=True)
    found = {}
    for guidance in (1.0, 2.0, 3.0):
        drawn = draw_scenes(pipeline, unseen[:judged], guidance, steps=25, seed=seed)
        found[f"guidance {guidance}"] = accuracies(drawn, unseen[:judged])
        logger.info("guidance %s: %s", guidance, found[f"guidance {guidance}"])
    write_json(output / "accuracies.json", found)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    typer.run(main)
