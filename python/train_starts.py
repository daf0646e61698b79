"""Learns where inversions of a Stable Diffusion should start, `amortised` and `meta`, and `axes`.

    python python/train_starts.py --output models/tiny-sd/starts

Pictures held out by the split (a tenth, seed 0) are in no part of the training. A run that was
killed goes on where it was when the command is given again.
"""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from invcap.data.settings import DataSettings, Split, load_split
from invcap.files import read_tensors, write_tensors
from invcap.prompt_inversion import PromptInversionPipeline
from invcap.prompt_inversion.axes import learn_axes, save_axes
from invcap.prompt_inversion.embeddings import save_prompt_embeds
from invcap.prompt_inversion.meta import MetaSettings, reptile
from invcap.prompt_inversion.train_amortised import AmortisedSettings, train_amortised
from invcap.training.trainer import shown

logger = logging.getLogger("starts")
PROMPTS_AT_ONCE = 256
AXES_OF = 256


def main(
    output: Annotated[Path, typer.Option(help="Folder for the starts.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name; else tiny-sd.")] = None,
    data: Annotated[str, typer.Option(help="Captioned pictures, as of `invcap train`.")] = "shapes",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path("runs/starts"),
    steps: Annotated[int, typer.Option(min=1, help="Of the amortised start.")] = 12000,
    rounds: Annotated[int, typer.Option(min=1, help="Of the meta-learned start.")] = 60,
    seed: Annotated[int, typer.Option(help="Of weights, batches and noise.")] = 0,
) -> None:
    """Learns both starts and writes them for `invcap invert --start amortised` or `meta`."""
    pipeline = PromptInversionPipeline.from_pretrained(model)
    split = load_split(DataSettings(data, size=pipeline.size))
    latents = _latents(pipeline, split, work / "latents.safetensors")
    prompts = [split.examples[index].captions[0] for index in split.train]
    hidden = torch.cat(
        [
            pipeline.encode_prompts(prompts[first : first + PROMPTS_AT_ONCE])
            for first in tqdm(range(0, len(prompts), PROMPTS_AT_ONCE), desc="captions")
        ]
    )
    with tqdm(desc="amortised") as bar:
        amortised = train_amortised(
            pipeline, latents, hidden, AmortisedSettings(steps=steps, seed=seed), work, shown(bar)
        )
    amortised.save(output / "amortised.safetensors", pipeline)
    with torch.no_grad():
        hidden = amortised(latents[:AXES_OF])
    save_axes(output, learn_axes(pipeline, latents[:AXES_OF], hidden, seed), pipeline)

    path = work / "meta.safetensors"
    start, done = pipeline.encode_prompts(["a room"])[0], 0
    if path.exists():
        tensors, metadata = read_tensors(path)
        start, done = tensors["start"], int(metadata["done"])
    with tqdm(total=rounds, initial=done, desc="meta") as bar:

        def on_round(done: int, start: Tensor) -> None:
            bar.update()
            write_tensors(path, {"start": start}, done=str(done))

        settings = MetaSettings(rounds=rounds, seed=seed)
        start = reptile(pipeline, latents, start, settings, done, on_round)
    save_prompt_embeds(output / "meta.safetensors", start, pipeline)


def _latents(pipeline: PromptInversionPipeline, split: Split, path: Path) -> Tensor:
    """The training pictures' latents, (N, C, h, w), kept at `path`."""
    if not path.exists():
        latents = [
            pipeline.encode_images(Image.fromarray(split.pixels[index]))
            for index in tqdm(split.train, desc="pictures")
        ]
        write_tensors(path, {"latents": torch.cat(latents)})
    return read_tensors(path)[0]["latents"]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    typer.run(main)
