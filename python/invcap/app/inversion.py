"""An inversion as a job: what the page sees of it while it runs, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from invcap.app.commands import Code, as_call, as_command
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.figures import write_figure, write_image
from invcap.prompt_inversion import PromptInversionPipeline, bulk
from invcap.prompt_inversion.inputs import check_inputs
from invcap.prompt_inversion.output import History
from invcap.prompt_inversion.report import bounds_figure, strip
from invcap.prompt_inversion.settings import default_settings

LOOKS_EVERY = 0.5  # seconds
FILES = ("embedding.safetensors", "tokens.safetensors", "history.json", "bounds.png", "strip.png")


@dataclass(frozen=True)
class Seen:
    """An inversion on its way.

    Attributes:
        step: steps done.
        history: of the bounds so far.
        images: drawn from its snapshots so far, in their order.
    """

    step: int
    history: History
    images: Sequence[Image.Image]


@dataclass(frozen=True)
class Found:
    """What an inversion left.

    Attributes:
        folder: of its files.
        row: what `invcap invert --json` prints of it.
        taken: steps that were taken.
    """

    folder: Path
    row: dict[str, Any]
    taken: int


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


def invert(models: Models, picture: Path, settings: bulk.RunSettings, job: Job) -> Found:
    """Does what `invcap invert` does with a picture; `job.seen` is a `Seen` meanwhile."""
    folder = job.folder / "inverted"
    drawn: dict[int, Image.Image] = {}
    taken, due = 0, 0.0

    def on_step(pipeline: PromptInversionPipeline, step: int, now: dict[str, Any]) -> bool:
        nonlocal taken, due
        taken = step
        if time.perf_counter() >= due:
            so_far = now["so_far"]()
            for at in so_far.snapshots.keys() - drawn.keys():
                (drawn[at],) = pipeline.generate(so_far.snapshots[at], [settings.seed])
            images = [drawn[at] for at in sorted(drawn)]
            job.seen = Seen(step, so_far.histories[0], images)
            due = time.perf_counter() + LOOKS_EVERY
        return not job.stopping.is_set()

    (row,) = bulk.invert(
        models.pipeline,
        [picture],
        folder,
        settings,
        models.processes,
        captioner=models.captioner,
        callback_on_step_end=on_step,
    )
    return Found(Path(row["embedding"]).parent, row, taken)


def write_seen(folder: Path, seen: Seen, target: Image.Image) -> tuple[Path, Path]:
    """Writes the curve and the strip of an inversion on its way, and returns their files."""
    curve, images = folder / f"{seen.step}-bounds.png", folder / f"{seen.step}-strip.png"
    write_figure(curve, bounds_figure([seen.history]))
    write_image(images, strip([*seen.images, target]))
    return curve, images


def time_left(job: Job, steps: int) -> str:
    """How far an inversion is, how long it took and may take."""
    elapsed = time.perf_counter() - job.started
    if job.seen is None:
        return f"Preparing. {elapsed:.0f} s so far."
    step = job.seen.step
    left = elapsed / step * (steps - step)
    return f"Step {step} of {steps}. {elapsed:.0f} s so far, about {left:.0f} s left."


def summary(found: Found, steps: int) -> str:
    """What an inversion found, in a sentence."""
    row = found.row
    stopped = "" if found.taken == steps else f", stopped after {found.taken} of {steps}"
    return (
        f"Bound **{row['log_likelihood']:.4f} ± {row['standard_error']:.4f}** nats per latent "
        f"number, best after {row['steps']} steps{stopped}; {row['unet_evaluations']} UNet "
        f"evaluations, {row['seconds']:.1f} s."
    )


def files_of(found: Found) -> list[str]:
    """The files of an inversion that there are."""
    return [str(found.folder / name) for name in FILES if (found.folder / name).exists()]


def as_text(models: Models, name: str, settings: bulk.RunSettings, found: Found) -> tuple[str, str]:
    """The command and the Python of a result."""
    names, steps = models.names, settings.inversion.steps
    tokens = settings.over == "token_vectors"
    options = {
        "output": "inverted",
        "start": settings.start,
        "steps": steps,
        "captioner": settings.captioner,
        "words": settings.words,
        "token-vectors": tokens,
        "seed": settings.seed,
        "model": names["model"],
        "device": names["device"],
    }
    device = f".to({names['device']!r})" if names["device"] else ""
    load = as_call("PromptInversionPipeline.from_pretrained", *filter(None, [names["model"]]))
    lines = [
        "from pathlib import Path",
        "",
        "from PIL import Image",
        "",
        "from invcap import InvertibleCaptioner, PromptInversionPipeline",
        "from invcap.data import fit_image",
        "from invcap.data.images import open_image",
        "from invcap.prompt_inversion.settings import default_settings",
        "",
        f"pipeline = {load}{device}",
        f"picture = fit_image(open_image(Path({name!r})), pipeline.size)",
        as_call(
            "settings = default_settings",
            settings.start,
            Code("pipeline.model.schedule"),
            steps=steps,
        ),
    ]
    if settings.captioner:
        says = as_call("InvertibleCaptioner.from_pretrained", settings.captioner)
        lines.append(f"captioner = {says}{device}")
    call = as_call(
        "found = pipeline.invert",
        Code("Image.fromarray(picture)"),
        start=settings.start,
        settings=Code("settings"),
        over=settings.over,
        seeds=settings.seed,
        words=settings.words,
        captioner=Code("captioner") if settings.captioner else None,
    )
    lines += [call, "print(found.prompts, found.log_likelihood)"]
    note = ""
    if found.taken != steps:
        note = f"# This result was stopped after {found.taken} of {steps} steps.\n"
    command = as_command("invert", [name], options)
    return note + command, note + "\n".join(lines)


def redrawn_as_python(models: Models, seed: int) -> str:
    """Python that draws an embedding again."""
    load = as_call(
        "PromptInversionPipeline.from_pretrained", *filter(None, [models.names["model"]])
    )
    return (
        "from pathlib import Path\n\n"
        "from invcap import PromptInversionPipeline\n"
        "from invcap.prompt_inversion.embeddings import load_conditioning\n\n"
        f"pipeline = {load}\n"
        "embedding = load_conditioning(Path('embedding.safetensors'), pipeline.model)\n"
        f"pipeline.generate(embedding, [{seed}])[0].save('again.png')"
    )
