"""Commands that train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: `invcap train --data shapes --output runs/shapes`")
def train(
    output: Annotated[Path, typer.Option(help="Folder for the model, metrics and report.")],
    data: Data = "shapes",
    size: Size = "32x32",
    held_out: HeldOut = 0.1,
    wordings: Wordings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    augment: Annotated[
        int, typer.Option(help="Moved and tinted copies of each training picture.")
    ] = 0,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of a diffusers autoencoder; else one is trained."),
    ] = None,
    autoencoder_steps: Annotated[
        int | None, typer.Option(help="Steps of training the small autoencoder.")
    ] = None,
    sentence_encoder: Annotated[
        str, typer.Option(help="A sentence-transformers model; `minilm` is installed.")
    ] = "minilm",
    objective: Annotated[
        str, typer.Option(help="`bidirectional`, `caption` (the paper's) or `likelihood`.")
    ] = "bidirectional",
    depth: Annotated[int | None, typer.Option(help="Layers of the network.")] = None,
    negative_slope: Annotated[float | None, typer.Option(help="Slope of the leaky ReLU.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="`muon` or `adamw`.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule; default the optimizer's own.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the triangular factors.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs a step.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    generation_weight: Annotated[
        float | None, typer.Option(help="Of the inverse's error, beside the caption's.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Deviation of the noise on latents of unit variance.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in OUTPUT.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Remove the run that OUTPUT holds.")] = False,
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Trains on captioned pictures, evaluates on held-out ones and writes a report.

    A run that was killed goes on with --resume, to the same weights.
    """
    from invcap.captioning import run
    from invcap.captioning.train import CHECKPOINT, TrainSettings
    from invcap.data.settings import DataSettings

    settings = TrainSettings(
        objective=objective,
        seed=seed,
        **_given(
            depth=depth,
            negative_slope=negative_slope,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            steps=steps,
            generation_weight=generation_weight,
            noise=noise,
            checkpoint_every=checkpoint_every,
        ),
    )
    encoders = run.EncoderSettings(autoencoder, sentence_encoder)
    training = replace(encoders.training, seed=seed, **_given(steps=autoencoder_steps))
    options = _source_options(wordings, pictures, picture_column, caption_column, group_column)
    if overwrite and (output / CHECKPOINT).exists():
        shutil.rmtree(output)
    metrics = run.train(
        output,
        DataSettings(data, options, _size(size), held_out, augment, seed),
        replace(encoders, training=training),
        settings,
        cache,
        resume,
    )
    _print_metrics(metrics, as_json)
    typer.echo(f"report: {output / 'report.html'}", err=as_json)


@app.command(epilog="Example: `invcap train-autoencoder --data shapes --output runs/autoencoder`")
def train_autoencoder(
    output: Annotated[Path, typer.Option(help="Folder for the autoencoder.")],
    data: Data = "shapes",
    size: Size = "32x32",
    held_out: HeldOut = 0.1,
    pictures: Pictures = None,
    features: Annotated[int, typer.Option(help="Numbers of a latent.")] = 384,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Deviation of the noise on latents of unit variance.")
    ] = None,
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Trains the small picture autoencoder alone, for `invcap train --autoencoder`."""
    from invcap.captioning import pairs, run
    from invcap.data.settings import DataSettings, load_split
    from invcap.encoders.autoencoder import AutoencoderSettings

    options = _given(pictures=pictures and str(pictures))
    split = load_split(DataSettings(data, options, _size(size), held_out, seed=seed))
    training = AutoencoderSettings(seed=seed, **_given(steps=steps, noise=noise))
    encoder = run.make_picture_encoder(
        split.pixels[split.train], features, run.EncoderSettings(training=training), cache
    )
    pixels = split.pixels[split.held_out]
    difference = encoder.decode(encoder.encode(pixels)).astype(float) - pixels
    pairs.save_autoencoder(encoder.autoencoder, output)
    psnr = float(20 * math.log10(255) - 10 * math.log10((difference**2).mean()))
    result = {"autoencoder": str(output), "latent_shape": encoder.latent_shape, "psnr": psnr}
    _print(
        f"{output}: latents of {encoder.latent_shape}, held-out PSNR {psnr:.1f} dB",
        [result],
        as_json,
    )


