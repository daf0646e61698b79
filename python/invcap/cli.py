"""The command `invcap`. Results go to standard output, progress and logs to standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from invcap.prompt_inversion import PromptInversionPipeline

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Pictures and sentences mapped to each other by one invertible network.",
)
data_app = typer.Typer(no_args_is_help=True, help="Make folders of captioned pictures.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON list and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is random.")]
Model = Annotated[Path, typer.Argument(help="Folder that `invcap train` wrote.")]
Data = Annotated[
    str,
    typer.Option(
        help="`shapes`, a folder or file of captioned pictures, or `hf:NAME_OR_PATH[:SPLIT]`."
    ),
]
Size = Annotated[str, typer.Option(help="Height x width of the pictures, pixels.")]
HeldOut = Annotated[float, typer.Option(help="Share of the pictures kept out of training.")]
Cache = Annotated[
    Path, typer.Option(envvar="INVCAP_CACHE", help="Folder for what is computed once.")
]
Wordings = Annotated[int | None, typer.Option(help="Captions of each picture of `shapes`, 1 to 5.")]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder of the pictures, where the captions are elsewhere.")
]
PictureColumn = Annotated[str | None, typer.Option(help="Column of the pictures in `hf:` data.")]
CaptionColumn = Annotated[
    list[str] | None, typer.Option(help="Column of captions in `hf:` data; may be repeated.")
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column in `hf:` data whose equal values stay on one side of the split."),
]
Diffusion = Annotated[
    str | None, typer.Option("--model", help="Stable Diffusion folder or hub name; else tiny-sd.")
]
Dtype = Annotated[str, typer.Option(help="Of the frozen networks: float32, bfloat16 or float16.")]
PictureSize = Annotated[
    str | None, typer.Option("--size", help="Height x width, pixels; default the model's own.")
]
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "invcap"


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


@app.command(epilog="Example: `invcap evaluate runs/demo --data shapes`")
def evaluate(
    model: Model,
    data: Data = "shapes",
    held_out: HeldOut = 0.1,
    wordings: Wordings = None,
    pictures: Pictures = None,
    picture_column: PictureColumn = None,
    caption_column: CaptionColumn = None,
    group_column: GroupColumn = None,
    cache: Cache = DEFAULT_CACHE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measures both directions on the held-out part of some data.

    The split depends on the share, the seed and the data alone: give those of the training.
    """
    from invcap.captioning import InvertibleCaptioner
    from invcap.captioning.evaluate import evaluate as measure
    from invcap.captioning.pairs import encode_pairs
    from invcap.data.settings import DataSettings, load_split

    captioner = InvertibleCaptioner.from_pretrained(model)
    options = _source_options(wordings, pictures, picture_column, caption_column, group_column)
    split = load_split(DataSettings(data, options, captioner.pictures.size, held_out, seed=seed))
    pairs = encode_pairs(
        [split.examples[i] for i in split.held_out],
        split.pixels[split.held_out],
        captioner.pictures,
        captioner.sentences,
        cache,
    )
    _print_metrics(measure(captioner, pairs), as_json)


@app.command(epilog="Example: `invcap caption runs/demo picture.png --top-k 3`")
def caption(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    captions: Annotated[
        Path | None,
        typer.Option(help="File of sentences to choose from, one a line; else the training ones."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sentences for each picture.")] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds the sentence nearest to each picture."""
    import torch

    from invcap.captioning import InvertibleCaptioner

    torch.manual_seed(seed)
    captioner = InvertibleCaptioner.from_pretrained(model)
    if captions is not None:
        lines = (line.strip() for line in captions.read_text(encoding="utf-8").splitlines())
        captioner.set_bank(list(dict.fromkeys(filter(None, lines))))
    found = captioner.caption(pictures, top_k)
    result = [
        {"picture": str(picture), "captions": [asdict(c) for c in best]}
        for picture, best in zip(pictures, found, strict=True)
    ]
    lines = (
        f"{r['picture']}\t{c['text']}\t{c['score']:.4f}" for r in result for c in r["captions"]
    )
    _print("\n".join(lines), result, as_json)


@app.command(
    epilog='Example: `invcap generate runs/demo "a small red star at the top" --output pictures`'
)
def generate(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Sentences.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures, 0000.png and so on.")],
    temperature: Annotated[
        float, typer.Option(help="Above 0, sample (models of the objective `likelihood`).")
    ] = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draws a picture for each sentence, by running the network backwards."""
    import torch

    from invcap.captioning import InvertibleCaptioner
    from invcap.files import replacing

    captioner = InvertibleCaptioner.from_pretrained(model)
    drawn = captioner.generate(texts, temperature, torch.Generator().manual_seed(seed))
    result = []
    for index, (text, picture) in enumerate(zip(texts, drawn, strict=True)):
        path = output / f"{index:04}.png"
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")
        result.append({"text": text, "picture": str(path)})
    _print("\n".join(f"{r['picture']}\t{r['text']}" for r in result), result, as_json)


@app.command(
    epilog='Example: `invcap score picture.png "a red square, black background" "a green circle"`'
)
def score(
    picture: Annotated[Path, typer.Argument(help="Picture file.")],
    prompts: Annotated[list[str], typer.Argument(help="Sentences.")],
    model: Diffusion = None,
    dtype: Dtype = "float32",
    size: PictureSize = None,
    draws: Annotated[int, typer.Option(help="UNet evaluations for each prompt.")] = 256,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Tells how likely each prompt made a picture: a bound, in nats per latent number.

    Differences are to the best, on the same draws: their errors are far smaller than the bounds'.
    """
    import torch

    pipeline = _diffusion(model, dtype)
    generator = torch.Generator().manual_seed(seed)
    found = pipeline.log_likelihood(picture, prompts, draws, generator, size and _size(size))
    result = []
    for index, prompt in enumerate(prompts):
        difference, error = found.difference(index, found.best)
        result.append(
            {
                "prompt": prompt,
                "log_likelihood": found.bound[index].item(),
                "standard_error": found.standard_error[index].item(),
                "difference": difference,
                "difference_standard_error": error,
            }
        )
    width = max(map(len, prompts))
    lines = [f"{'prompt':{width}}  {'bound':>9}  {'error':>7}  {'to best':>9}  {'error':>7}"]
    lines += [
        f"{r['prompt']:{width}}  {r['log_likelihood']:9.4f}  {r['standard_error']:7.4f}  "
        f"{r['difference']:9.4f}  {r['difference_standard_error']:7.4f}"
        for r in result
    ]
    _print("\n".join(lines), result, as_json)


@app.command(epilog="Example: `invcap invert picture.png more-pictures --output inverted`")
def invert(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")],
    output: Annotated[Path, typer.Option(help="Folder; each picture gets one of its name in it.")],
    model: Diffusion = None,
    dtype: Dtype = "float32",
    size: PictureSize = None,
    start: Annotated[
        str,
        typer.Option(
            help="Where to begin: a sentence; `caption`, what --captioner says; `amortised` or "
            "`meta`, learned by python/train_starts.py (tiny-sd has both)."
        ),
    ] = "a room",
    captioner: Annotated[
        Path | None, typer.Option(help="Folder that `invcap train` wrote, for captions and words.")
    ] = None,
    starts: Annotated[
        Path | None, typer.Option(help="Folder of learned starts; default the model's own.")
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            help="Also find the likeliest prompt in words, among what --captioner says, the start, "
            "and what --token-vectors are read as."
        ),
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Most gradient steps.")] = None,
    draws: Annotated[int | None, typer.Option(help="UNet evaluations for each gradient.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.")] = None,
    weighting: Annotated[
        str | None, typer.Option(help="`balanced`, `elbo`, `mean` (the paper's) or `epsilon`.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the embedding; 0 for none.")
    ] = None,
    token_vectors: Annotated[
        bool, typer.Option(help="Optimise the start's token vectors; write them for diffusers too.")
    ] = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    attention_slicing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    guidance_scale: Annotated[float, typer.Option(help="Of the generated pictures.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Pictures inverted at once.")] = 32,
    resume: Annotated[bool, typer.Option(help="Go on with the run that OUTPUT holds.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds the prompt embedding that most likely made each picture.

    Writes for each its embedding, its history, a plot of both bounds, and a strip of pictures
    generated on the way, beside the target. A folder stands for all pictures in it; those that
    cannot be used are skipped and listed.

    A run that was killed goes on with --resume, to the same results. `accelerate launch -m
    invcap.cli invert ...` spreads it over GPUs, `torchrun --nproc-per-node 2 -m invcap.cli
    invert ...` over processes.
    """
    from invcap.prompt_inversion import InversionSettings, few_steps
    from invcap.prompt_inversion import bulk as run
    from invcap.prompt_inversion.starts import NEAR

    processes = run.start_processes()
    pipeline = _diffusion(model, dtype).to(processes.device)
    if gradient_checkpointing:
        pipeline.enable_gradient_checkpointing()
    if attention_slicing:
        pipeline.enable_attention_slicing()
    inversion = replace(
        few_steps(pipeline.schedule) if start in NEAR else InversionSettings(),
        **_given(
            steps=steps,
            draws=draws,
            learning_rate=learning_rate,
            weighting=weighting,
            average=average,
        ),
    )
    settings = run.RunSettings(
        _size(size) if size else pipeline.size,
        inversion,
        start=start,
        captioner=captioner and str(captioner),
        starts=starts and str(starts),
        words=words,
        over="token_vectors" if token_vectors else "hidden_states",
        seed=seed,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
    )
    result = run.invert(pipeline, pictures, output, settings, processes, resume)
    processes.destroy_process_group()
    if processes.is_main_process:
        lines = (
            f"{r['picture']}\t{r['embedding']}\tbound {r['log_likelihood']:.4f} "
            f"± {r['standard_error']:.4f} after {r['steps']} steps" + _in_words(r)
            for r in result
        )
        _print("\n".join(lines), result, as_json)


def _in_words(row: dict[str, Any]) -> str:
    if "prompt" not in row:
        return ""
    bound, error = row["prompt_log_likelihood"], row["prompt_standard_error"]
    return f"\t{row['prompt']}\tbound {bound:.4f} ± {error:.4f}"


@data_app.command(epilog="Example: `invcap data emoji --output emoji`")
def emoji(
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf; default where Debian puts it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turns the Noto colour emoji font into a folder of captioned pictures."""
    from invcap.data.emoji import write_emoji

    summary = write_emoji(output, **_given(font=font))
    result = {"folder": str(output), "pictures": summary.pictures, "groups": summary.groups}
    _print(f"{output}: {summary.pictures} pictures in {summary.groups} groups", [result], as_json)


def main() -> None:
    """Runs the command; a user's error ends in one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for library in ("httpx", "sentence_transformers", "datasets", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        app()
    except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("INVCAP_TRACEBACK"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _source_options(
    wordings: int | None,
    pictures: Path | None,
    picture_column: str | None,
    caption_columns: list[str] | None,
    group_column: str | None,
) -> dict[str, Any]:
    return _given(
        wordings=wordings,
        pictures=pictures and str(pictures),
        picture_column=picture_column,
        caption_columns=caption_columns,
        group_column=group_column,
    )


def _diffusion(model: str | None, dtype: str) -> PromptInversionPipeline:
    import torch

    from invcap.prompt_inversion import PromptInversionPipeline

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PromptInversionPipeline.from_pretrained(model, dtype=getattr(torch, dtype)).to(device)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"size must be HEIGHTxWIDTH in pixels, such as 32x32, got {text!r}")
    return int(height), int(width)


def _print(text: str, result: Iterable[Any], as_json: bool) -> None:
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)


def _print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    caption, generation = metrics["caption"], metrics["generation"]
    text = (
        f"caption:    MSE {caption['mse']:.4f}, R@1 {caption['r_at_1']:.3f}, "
        f"R@10 {caption['r_at_10']:.3f}\n"
        f"generation: MSE {generation['latent_mse']:.4g}, R@1 {generation['r_at_1']:.3f}, "
        f"R@10 {generation['r_at_10']:.3f}\n"
        f"round trip: {metrics['round_trip']['max_abs_error']:.1e}"
    )
    _print(text, [metrics], as_json)


if __name__ == "__main__":
    main()
