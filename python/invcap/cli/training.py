"""Commands that train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from invcap.cli.options import (
    DEFAULT_CACHE,
    Cache,
    CaptionColumn,
    Config,
    Data,
    Device,
    Diffusion,
    Drawings,
    GroupColumn,
    HeldOut,
    Json,
    PictureColumn,
    Pictures,
    Precision,
    Seed,
    Size,
    Streaming,
    Wordings,
    configuration,
    given,
    parse_size,
    source_options,
)
from invcap.cli.output import print_metrics, print_result

app = typer.Typer()

Accumulation = Annotated[
    int, typer.Option(help="Parts that a batch is computed in, one after the other: less memory.")
]
ReportTo = Annotated[
    str, typer.Option(help="Where losses are logged: `tensorboard`, `wandb` or `none`.")
]


@app.command(epilog="Example: `invcap train --data shapes --output runs/shapes`")
def train(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder for the model, metrics and report.")],
    config: Config = None,
    data: Data = "shapes",
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width of the images, pixels; default 224x224 for `features` and "
            "`unclip`, else 32x32."
        ),
    ] = None,
    held_out: HeldOut = 0.1,
    wordings: Wordings = None,
    drawings: Drawings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    streaming: Streaming = False,
    augment: Annotated[
        int, typer.Option(help="Moved and tinted copies of each training image.")
    ] = 0,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            help="`conv` (a small autoencoder is trained; the default), `features[:NAME]` (a "
            "backbone of transformers, or the embedded EfficientNet-Lite0), `unclip:NAME`, or "
            "the folder or hub name of a diffusers autoencoder."
        ),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of a diffusers autoencoder, as image encoder."),
    ] = None,
    autoencoder_steps: Annotated[
        int | None,
        typer.Option(help="Steps of training the small autoencoder, or the decoder of `features`."),
    ] = None,
    sentence_encoder: Annotated[
        str, typer.Option(help="A sentence-transformers model; `minilm` is installed.")
    ] = "minilm",
    objective: Annotated[
        str, typer.Option(help="`bidirectional`, `caption` (the paper's) or `likelihood`.")
    ] = "bidirectional",
    depth: Annotated[int | None, typer.Option(help="Layers of the network.")] = None,
    padding: Annotated[
        int | None, typer.Option(help="Zeros beside each latent: room for a wider network.")
    ] = None,
    negative_slope: Annotated[float | None, typer.Option(help="Slope of the leaky ReLU.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="`muon` or `adamw`.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak of the schedule; default the optimizer's own.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of L and U.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pairs a step, whatever the number of processes.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    generation_weight: Annotated[
        float | None, typer.Option(help="Weight of the inverse's error beside the caption's.")
    ] = None,
    contrastive: Annotated[
        float | None,
        typer.Option(help="Weight of a contrastive term (InfoNCE) in each direction."),
    ] = None,
    robust_inverse: Annotated[
        float | None,
        typer.Option(help="Weight of the inverse's error from disturbed outputs, for `caption`."),
    ] = None,
    variations: Annotated[
        int | None,
        typer.Option(help="Numbers beside the caption's that drawings vary by, see `generate`."),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Deviation of the noise on latents of unit variance.")
    ] = None,
    caption_noise: Annotated[
        float | None, typer.Option(help="Deviation of the noise on captions before the inverse.")
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(
            help="Also train a writer of new sentences: `small`, or the folder or hub name of a "
            "causal language model such as GPT-2."
        ),
    ] = None,
    writer_steps: Annotated[int | None, typer.Option(help="Steps of training the writer.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    storage: Annotated[
        str, typer.Option(help="Numbers of latents and embeddings on disk: `float32`, `float16`.")
    ] = "float32",
    device: Device = "auto",
    precision: Precision = "float32",
    gradient_accumulation: Accumulation = 1,
    report_to: ReportTo = "tensorboard",
    resume: Annotated[bool, typer.Option(help="Resume from the checkpoint in OUTPUT.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace the run that OUTPUT holds.")] = False,
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Trains on captioned images, evaluates on held-out ones and writes a report.

    A run that was killed resumes with --resume, to the same weights. `torchrun --nproc-per-node 2
    -m invcap.cli train ...` or `accelerate launch -m invcap.cli train ...` spreads it over
    processes and GPUs.
    """
    from invcap.captioning import run
    from invcap.captioning.train import default_settings
    from invcap.captioning.train_writer import WriterSettings
    from invcap.data.settings import DataSettings
    from invcap.encoders.make import CONV, EncoderSettings, default_size
    from invcap.training.devices import start_processes

    settings = replace(
        default_settings(data, optimizer),
        gradient_accumulation=gradient_accumulation,
        seed=seed,
        **given(
            objective=objective,
            depth=depth,
            padding=padding,
            negative_slope=negative_slope,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            steps=steps,
            generation_weight=generation_weight,
            contrastive=contrastive,
            robust_inverse=robust_inverse,
            variations=variations,
            noise=noise,
            caption_noise=caption_noise,
            checkpoint_every=checkpoint_every,
        ),
    )
    if image_encoder is not None and autoencoder is not None:
        raise ValueError(
            f"autoencoder must not be given beside image_encoder, got {autoencoder!r} and "
            f"{image_encoder!r}"
        )
    encoders = EncoderSettings(
        image_encoder or autoencoder or CONV, sentence_encoder, storage=storage
    )
    trained = given(seed=seed, steps=autoencoder_steps)
    if writer is None and writer_steps is not None:
        raise ValueError(f"writer_steps needs writer, such as `small`, got {writer_steps}")
    written = given(model=writer, steps=writer_steps, checkpoint_every=checkpoint_every)
    height_and_width = parse_size(size) if size else default_size(encoders.image_encoder)
    options = source_options(
        wordings, pictures, picture_column, caption_column, group_column, streaming, drawings
    )
    processes = start_processes(device, precision, report_to, output)
    metrics = run.train(
        output,
        DataSettings(data, options, height_and_width, held_out, augment, seed),
        replace(
            encoders,
            training=replace(encoders.training, **trained),
            features=replace(encoders.features, **trained),
        ),
        settings,
        cache,
        processes,
        resume,
        overwrite,
        configuration(context),
        WriterSettings(seed=seed, **written) if writer else None,
    )
    processes.end_training()
    if processes.is_main_process:
        print_metrics(metrics, as_json)
        typer.echo(f"report: {output / 'report.html'}", err=as_json)


@app.command(epilog="Example: `invcap train-autoencoder --data shapes --output runs/autoencoder`")
def train_autoencoder(
    output: Annotated[Path, typer.Option(help="Folder for the autoencoder.")],
    data: Data = "shapes",
    size: Size = "32x32",
    held_out: HeldOut = 0.1,
    drawings: Drawings = None,
    pictures: Pictures = None,
    features: Annotated[int, typer.Option(help="Numbers of a latent.")] = 384,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Deviation of the noise on latents of unit variance.")
    ] = None,
    device: Device = "auto",
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Trains the small image autoencoder alone, for `invcap train --autoencoder`."""
    from invcap.captioning import run
    from invcap.data.settings import DataSettings
    from invcap.encoders.autoencoder import AutoencoderSettings
    from invcap.training.devices import start_processes

    options = source_options(pictures=pictures, drawings=drawings)
    processes = start_processes(device)
    result = run.train_small_autoencoder(
        output,
        DataSettings(data, options, parse_size(size), held_out, seed=seed),
        features,
        AutoencoderSettings(seed=seed, **given(steps=steps, noise=noise)),
        cache,
        processes,
    )
    processes.end_training()
    if processes.is_main_process:
        print_result(
            f"{output}: latents of {result['latent_shape']}, held-out PSNR {result['psnr']:.1f} dB",
            [result],
            as_json,
        )


@app.command(epilog="Example: `invcap train-starts --model runs/my-sd --output runs/my-sd/starts`")
def train_starts(
    output: Annotated[Path, typer.Option(help="Folder for the starts.")],
    model: Diffusion = None,
    data: Data = "shapes",
    held_out: HeldOut = 0.1,
    drawings: Drawings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    streaming: Streaming = False,
    work: Annotated[
        Path, typer.Option(help="Folder for checkpoints; a killed run resumes from it.")
    ] = Path("runs/starts"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the amortised start.")] = 12000,
    caption_steps: Annotated[
        int, typer.Option(min=1, help="Steps towards captions, before those.")
    ] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    gradient_accumulation: Accumulation = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the meta-learned start.")] = 60,
    device: Device = "auto",
    precision: Precision = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Learns where inversions of a model should start: `amortised`, `meta`, and axes.

    Held-out images are in no part of the training.
    """
    from invcap.data.settings import DataSettings
    from invcap.diffusion.families import load_model
    from invcap.prompt_inversion import train_starts as starts
    from invcap.prompt_inversion.meta import MetaSettings
    from invcap.prompt_inversion.train_amortised import AmortisedSettings
    from invcap.training.devices import start_processes

    processes = start_processes(device, precision)
    frozen = load_model(model).to(processes.device)
    options = source_options(
        None, pictures, picture_column, caption_column, group_column, streaming, drawings
    )
    amortised = AmortisedSettings(
        caption_steps=caption_steps,
        steps=steps,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        seed=seed,
    )
    written = starts.train_starts(
        frozen,
        DataSettings(data, options, frozen.size, held_out, seed=seed),
        amortised,
        MetaSettings(rounds=rounds, seed=seed),
        output,
        work,
        processes,
    )
    if processes.is_main_process:
        files = [str(path) for path in written]
        print_result("\n".join(files), [{"starts": str(output), "files": files}], as_json)
