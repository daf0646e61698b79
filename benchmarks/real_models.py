"""Public checkpoints on captioned images: for the first person with a GPU and the weights.

    python benchmarks/real_models.py --data coco/ --output real_models

Measures for each model the seconds of an evaluation of the denoiser, the peak of memory, the bound
of images under their own captions and under those of other images, and how often the likeliest of
all captions is the image's own. Writes a table and JSON. `docs/real_models.md` has predictions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from layer_speed import peak_resident
from torch import Tensor

from invcap.cli.memory import load_pipeline
from invcap.cli.options import DTYPES, parse_size
from invcap.data import load_examples
from invcap.data.example import Example
from invcap.diffusion.noise_samples import standard_error
from invcap.files import write_json, write_text
from invcap.prompt_inversion import PromptInversionPipeline
from invcap.training.devices import resolve_device

CHECKPOINTS = (
    "CompVis/stable-diffusion-v1-4",
    "stabilityai/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-3.5-medium",
    "black-forest-labs/FLUX.1-dev",
    "Tongyi-MAI/Z-Image",
)
CLEAR = 2  # standard errors


@dataclass(frozen=True)
class Measured:
    """What was measured of a model; bounds in nats per latent number.

    Attributes:
        seconds_an_evaluation: of one latent, without gradient, text encoders left out.
        peak_gib: memory of the GPU, or of the process without one.
        own, shuffled: mean bound of the images under their own captions, and under another's.
        difference: mean of the paired differences, own less shuffled.
        clear: share of images whose own caption is likelier by two standard errors.
        unclear: share of images with a smaller difference, of either sign.
        words_found: share of images whose likeliest caption, of all images' captions, is their own.
    """

    model: str
    images: int
    draws: int
    seconds_an_evaluation: float
    peak_gib: float
    own: float
    own_error: float
    shuffled: float
    shuffled_error: float
    difference: float
    difference_error: float
    clear: float
    unclear: float
    words_found: float


def measure(
    pipeline: PromptInversionPipeline,
    examples: Sequence[Example],
    draws: int,
    size: tuple[int, int] | None,
) -> Measured:
    """Measures a model on images with a caption each, which is compared with the next image's."""
    captions = [example.captions[0] for example in examples]
    on_gpu = pipeline.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    bounds, differences, errors, seconds, found = [], [], [], [], 0
    for index, example in enumerate(examples):
        image, other = example.open(), captions[(index + 1) % len(captions)]
        result = pipeline.log_likelihood(image, [captions[index], other], draws, size=size)
        bounds.append(result.bound)
        difference, error = result.difference(0, 1)
        differences.append(difference)
        errors.append(error)
        likeliest = pipeline.likeliest(image, captions, 1, draws, size=size).prompts[0]
        found += likeliest == captions[index]
        seconds.append(seconds_an_evaluation(pipeline, image, captions[index], size))
    own, shuffled = torch.stack(bounds, 1)
    paired, error = torch.tensor(differences), torch.tensor(errors)
    return Measured(
        model=pipeline.model.name,
        images=len(examples),
        draws=draws,
        seconds_an_evaluation=sorted(seconds)[len(seconds) // 2],
        peak_gib=(torch.cuda.max_memory_allocated() if on_gpu else peak_resident()) / 2**30,
        **_mean("own", own),
        **_mean("shuffled", shuffled),
        **_mean("difference", paired),
        clear=(paired > CLEAR * error).double().mean().item(),
        unclear=(paired.abs() <= CLEAR * error).double().mean().item(),
        words_found=found / len(examples),
    )


@torch.no_grad()
def seconds_an_evaluation(
    pipeline: PromptInversionPipeline, image: Any, prompt: str, size: tuple[int, int] | None
) -> float:
    """Of one latent, in the batches that scores take; the first batch is not counted."""
    model = pipeline.model
    latents = model.encode_images(image, size)
    count = model.batch_size(*latents.shape[2:])
    conditioning = model.encode_prompts([prompt])[[0] * count]
    steps = torch.full((count,), len(model.schedule) // 2, device=model.device)
    noisy = latents.expand(count, *latents.shape[1:])
    for _ in range(2):
        begun = time.perf_counter()
        model.predict_noise(noisy, steps, conditioning).sum().item()
    return (time.perf_counter() - begun) / count


def _mean(name: str, values: Tensor) -> dict[str, float]:
    return {name: values.mean().item(), f"{name}_error": standard_error(values).item()}


def table(rows: Sequence[Measured]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | s an evaluation | peak, GiB | own captions | shuffled | difference | "
        "own likelier | unclear | words found |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.model} | {row.seconds_an_evaluation:.3g} | {row.peak_gib:.1f} | "
        f"{row.own:.4f} ± {row.own_error:.4f} | {row.shuffled:.4f} ± {row.shuffled_error:.4f} | "
        f"{row.difference:.4f} ± {row.difference_error:.4f} | {row.clear:.0%} | "
        f"{row.unclear:.0%} | {row.words_found:.0%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[str, typer.Option(help="Captioned images, as in `invcap train`.")],
    output: Annotated[Path, typer.Option(help="Folder for models.json and table.md.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Hub name or folder, repeatable; default all.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Number of images.")] = 50,
    draws: Annotated[int, typer.Option(min=8, help="Noise samples.")] = 256,
    size: Annotated[str | None, typer.Option(help="Height x width; default each model's.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `cuda:N`.")] = "auto",
    dtype: Annotated[str, typer.Option(help=f"One of {', '.join(DTYPES)}.")] = "bfloat16",
    compute_dtype: Annotated[str | None, typer.Option(help="Dtype of arithmetic.")] = None,
    four_bit: Annotated[bool, typer.Option(help="Load large networks in 4 bits.")] = False,
    offload: Annotated[bool, typer.Option(help="One network on the GPU at a time.")] = False,
    group_offload: Annotated[bool, typer.Option(help="One layer at a time.")] = False,
) -> None:
    """Measures models one after the other; a model that does not load is listed with its error."""
    where, pixels = resolve_device(device), parse_size(size) if size else None
    examples = [*load_examples(data).examples][:images]
    if len(examples) < 2:
        raise typer.BadParameter(f"--data: expected at least 2 images, got {len(examples)}")
    rows, failures = [], {}
    for name in model or CHECKPOINTS:
        try:
            pipeline = load_pipeline(
                name, where, dtype, compute_dtype, four_bit, offload, group_offload
            )
        except ValueError as error:
            failures[name] = str(error)
            continue
        pipeline.set_progress_bar_config(disable=True)
        readable = [each for each in examples if pipeline.model.can_read(each.captions[0])]
        rows.append(measure(pipeline, readable, draws, pixels))
        del pipeline
        write_json(
            output / "models.json", {"models": [asdict(row) for row in rows], "failed": failures}
        )
        write_text(output / "table.md", table(rows))
    typer.echo(table(rows) + "".join(f"{name}: {why}\n" for name, why in failures.items()))
    if failures and not rows:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
