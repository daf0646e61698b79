"""Peak memory of training and using a captioner of wide latents, on encoders of random weights.

    python benchmarks/wide_latents.py --work runs/wide

Latents are those of Stable Diffusion's autoencoder at 256 x 256, 4 x 32 x 32 = 4,096 numbers, and
embeddings the 768 of a transformer of BERT's base size. Each command runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from layer_speed import peak_resident
from real_size_step import autoencoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from invcap.data.shapes import SIDE, draw, scenes

SIZE = "256x256"
IMAGES = 48

app = typer.Typer(pretty_exceptions_enable=False)


def save_sentence_encoder(folder: Path, words: set[str]) -> None:
    """A BERT of base size with random weights and a small vocabulary."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (folder / "bert").mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    BertModel(BertConfig(vocab_size=30_522)).save_pretrained(folder / "bert")
    bert = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[bert, Pooling(768)], device="cpu").save(str(folder / "encoder"))


def save_pictures(folder: Path) -> list[str]:
    """Pictures of shapes with a text beside each; returns the texts."""
    folder.mkdir(parents=True)
    every = list(scenes())
    chosen = every[:: len(every) // IMAGES][:IMAGES]
    for number, scene in enumerate(chosen):
        draw(scene, 8 * SIDE).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(scene.caption())
    return [scene.caption() for scene in chosen]


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def run(command: list[str]) -> None:
    """Runs one command of `invcap` and prints the peak of resident memory."""
    from invcap.cli import app as invcap

    invcap(command, standalone_mode=False)
    typer.echo(f"{command[0]}: {peak_resident() / 1e9:.2f} GB")


@app.command()
def measure(
    work: Annotated[Path, typer.Option(help="Folder for models and data; must not exist.")],
    steps: Annotated[int, typer.Option(help="Steps; all take the same memory.")] = 2,
) -> None:
    """Trains, captions and generates, and prints the peak of each."""
    torch.manual_seed(0)
    texts = save_pictures(work / "pictures")
    save_sentence_encoder(work / "bert", {word for text in texts for word in text.split()})
    autoencoder().save_pretrained(work / "vae")
    train = ["train", "--data", work / "pictures", "--size", SIZE, "--steps", steps]
    train += ["--autoencoder", work / "vae", "--sentence-encoder", work / "bert" / "encoder"]
    train += ["--cache", work / "cache", "--output", work / "captioner"]
    caption = ["caption", work / "captioner", work / "pictures" / "0.png"]
    generate = ["generate", work / "captioner", texts[0], "--output", work / "drawn"]
    for command in (train, caption, generate):
        subprocess.run([sys.executable, __file__, "run", "--", *map(str, command)], check=True)


if __name__ == "__main__":
    app()
