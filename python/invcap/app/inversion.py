"""An inversion as a job: its live progress on the page, and its files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from invcap.app.commands import Code, as_call, as_command, as_program
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.data import fit_image
from invcap.data.images import open_image
from invcap.figures import write_figure, write_image
from invcap.prompt_inversion import PromptInversionPipeline, bulk
from invcap.prompt_inversion.inputs import check_inputs
from invcap.prompt_inversion.report import bounds_figure, strip
from invcap.prompt_inversion.settings import default_settings

LOOKS_EVERY = 1.0  # seconds
FILES = ("embedding.safetensors", "tokens.safetensors", "history.json", "bounds.png", "strip.png")


def run_settings(
    models: Models, start: str, steps: int | None, tokens: bool, seed: int
) -> bulk.RunSettings:
    """Settings of `invcap invert` for what the page asks; in words too wherever that can be.

    Args:
        start: a sentence, "caption" or "amortised".
        steps: None for as many as suit the start.
        tokens: optimize the vectors of the start's tokens.

    Raises:
        ValueError: they cannot be used.
    """
    pipeline, folder = models.pipeline, models.names["captioner"]
    overrides = {} if steps is None else {"steps": steps}
    settings = bulk.RunSettings(
        pipeline.size,
        default_settings(start, pipeline.model.schedule, **overrides),
        start=start,
        captioner=folder,
        words=folder is not None or start != "amortised",
        over="token_vectors" if tokens else "hidden_states",
        seed=seed,
    )
    check_inputs(
        pipeline.learned_starts(),
        settings.inversion,
        start,
        settings.over,
        settings.size,
        settings.guidance_scale,
        folder is not None,
        settings.words,
    )
    return settings


def invert(models: Models, picture: Path, settings: bulk.RunSettings, job: Job) -> dict[str, Any]:
    """Inverts a picture as `invcap invert` does, and returns what it prints with `--json`.

    Meanwhile, `job.seen` has the files of the curve and the strip so far.
    """
    target = Image.fromarray(fit_image(open_image(picture), settings.size))
    drawn: dict[int, Image.Image] = {}
    due = 0.0

    def on_step(pipeline: PromptInversionPipeline, step: int, now: dict[str, Any]) -> bool:
        nonlocal due
        job.step = step
        if time.perf_counter() >= due:
            so_far = now["so_far"]()
            for at in so_far.snapshots.keys() - drawn.keys():
                (drawn[at],) = pipeline.generate(so_far.snapshots[at], [settings.seed])
            curve, images = (job.folder / f"{step}-{name}.png" for name in ("bounds", "strip"))
            write_figure(curve, bounds_figure(so_far.histories))
            write_image(images, strip([*(drawn[at] for at in sorted(drawn)), target]))
            job.seen = [str(curve), str(images)]
            due = time.perf_counter() + LOOKS_EVERY
        return not job.stopping.is_set()

    (row,) = bulk.invert(
        models.pipeline,
        [picture],
        job.folder / "inverted",
        settings,
        models.processes,
        captioner=models.captioner,
        callback_on_step_end=on_step,
    )
    return row


def time_left(job: Job, steps: int) -> str:
    """The progress of an inversion, with the elapsed and the expected time."""
    elapsed = time.perf_counter() - job.started
    if not job.step:
        return f"Preparing. {elapsed:.0f} s so far."
    left = elapsed / job.step * (steps - job.step)
    return f"Step {job.step} of {steps}. {elapsed:.0f} s so far, about {left:.0f} s left."


def summary(row: dict[str, Any], taken: int, steps: int) -> str:
    """The result of an inversion, as a sentence."""
    stopped = "" if taken == steps else f", stopped after {taken} of {steps}"
    return (
        f"Bound **{row['log_likelihood']:.4f} ± {row['standard_error']:.4f}** nats per latent "
        f"number, best after {row['steps']} steps{stopped}; {row['unet_evaluations']} UNet "
        f"evaluations, {row['seconds']:.1f} s."
    )


def files_of(folder: Path) -> list[str]:
    """The existing files of an inversion."""
    return [str(folder / name) for name in FILES if (folder / name).exists()]


def as_text(
    models: Models, name: str, settings: bulk.RunSettings, stopped: bool
) -> tuple[str, str]:
    """The command and the Python code for a result."""
    captioned = settings.captioner is not None
    options: dict[str, object] = {"start": settings.start, "words": settings.words}
    command = as_command(
        "invert",
        name,
        output="inverted",
        **options,
        steps=settings.inversion.steps,
        token_vectors=settings.over == "token_vectors",
        seed=settings.seed,
        **models.names,
    )
    python = as_program(
        [
            "from pathlib import Path",
            "",
            "from PIL import Image",
            "",
            f"from invcap import {'InvertibleCaptioner, ' * captioned}PromptInversionPipeline",
            "from invcap.data import fit_image",
            "from invcap.data.images import open_image",
            "from invcap.prompt_inversion.settings import default_settings",
        ],
        models.load_pipeline(),
        *([models.load_captioner()] if captioned else []),
        f"picture = fit_image(open_image(Path({name!r})), pipeline.size)",
        as_call(
            "settings = default_settings",
            settings.start,
            Code("pipeline.model.schedule"),
            steps=settings.inversion.steps,
        ),
        as_call(
            "found = pipeline.invert",
            Code("Image.fromarray(picture)"),
            **options,
            settings=Code("settings"),
            over=settings.over,
            seeds=settings.seed,
            captioner=Code("captioner") if captioned else None,
        ),
        "print(found.prompts, found.log_likelihood)",
    )
    note = "# The result on the page was stopped before the last step.\n" if stopped else ""
    return note + command, note + python


def redrawn_as_python(models: Models, seed: int) -> str:
    """Python code that draws an image from an embedding."""
    return as_program(
        [
            "from pathlib import Path",
            "",
            "from invcap import PromptInversionPipeline",
            "from invcap.prompt_inversion.embeddings import load_conditioning",
        ],
        models.load_pipeline(),
        "embedding = load_conditioning(Path('embedding.safetensors'), pipeline.model)",
        f"pipeline.generate(embedding, [{seed}])[0].save('again.png')",
    )
