"""A picture to the prompt that most likely made it, seen as it goes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from invcap.app.commands import shown_as
from invcap.app.fields import (
    answer,
    check_picture,
    check_seed,
    check_whole,
    files_shown,
    fine,
    image_shown,
    picture_field,
    seed_field,
)
from invcap.app.inversion import (
    Found,
    Seen,
    as_text,
    files_of,
    invert,
    redrawn_as_python,
    run_settings,
    summary,
    time_left,
    write_seen,
)
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.data import fit_image
from invcap.data.images import open_image
from invcap.diffusion.conditioning import Conditioning
from invcap.figures import write_image
from invcap.prompt_inversion.embeddings import load_conditioning

MOST_STEPS = 5000
SENTENCE, CAPTION, LEARNED = "A sentence", "What the captioner says", "Learned, in one pass"

NO_WORDS = "No words: they need a captioner, or a sentence to start from."


def invert_tab(models: Models, examples: list[str]) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "Finds the prompt that most likely made a picture: its embedding, by gradient steps on a "
        "bound of log p(picture | prompt), and where it can, its words."
    )
    choices = starts(models)
    first = choices[-1]
    running: dict[str | None, Job] = {}
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples)
            start = gr.Radio(choices, value=first, label="Start from")
            sentence = gr.Textbox("a room", label="Sentence", visible=first == SENTENCE)
            steps = gr.Number(steps_of(models, first), label="Steps", precision=0)
            tokens = gr.Checkbox(
                label="Optimize token vectors",
                info="Gives a textual-inversion file for diffusers; needs a start in words.",
            )
            seed = seed_field()
            run = gr.Button("Invert the picture", variant="primary")
            with gr.Row():
                stop = gr.Button("Stop, keep the best")
                cancel = gr.Button("Cancel")
        with gr.Column():
            status = gr.Markdown()
            curve = image_shown("The bound, as it rises", 260)
            images = image_shown("Drawn on the way, and the picture at the end of the row", 150)
            words = gr.Textbox(label="In words", interactive=False, buttons=["copy"])
            files = files_shown("Files to download")
            shown = shown_as()
            embedding = gr.State()
    redraw_part(models, embedding)

    def settings_of(kind: str, text: str, count: int, over_tokens: bool, first_seed: int) -> Any:
        where = {CAPTION: "caption", LEARNED: "amortised"}.get(kind, text)
        return run_settings(models, where, count, over_tokens, first_seed)

    def on_run(
        path: str,
        kind: str,
        text: str,
        count: int,
        over_tokens: bool,
        first_seed: int,
        request: gr.Request,
    ) -> Generator[Any, None, None]:
        settings = settings_of(kind, text, count, over_tokens, first_seed)
        target = Image.fromarray(fit_image(open_image(Path(path)), settings.size))
        session = request.session_hash
        last: Seen | None = None

        def work(job: Job) -> Found:
            running[session] = job
            try:
                return invert(models, Path(path), settings, job)
            finally:
                del running[session]

        def show(job: Job) -> tuple[Any, ...]:
            nonlocal last
            drawn: list[Any] = [gr.skip()] * 2
            if job.seen is not last:
                last = job.seen
                drawn = [str(file) for file in write_seen(job.folder, job.seen, target)]
            return time_left(job, count), *drawn, *[gr.skip()] * 5

        def give(found: Found) -> tuple[Any, ...]:
            return (
                summary(found, count),
                str(found.folder / "bounds.png"),
                str(found.folder / "strip.png"),
                found.row.get("prompt", NO_WORDS),
                files_of(found),
                *as_text(models, Path(path).name, settings, found),
                load_conditioning(Path(found.row["embedding"]), models.pipeline.model),
            )

        yield from models.worker.run(work, give, show)

    def check(
        path: str | None,
        kind: str,
        text: str,
        count: float | None,
        over_tokens: bool,
        first_seed: float | None,
    ) -> list[dict[str, Any]]:
        place = answer(settings_of, kind, text, None, over_tokens, 0)
        return [
            answer(check_picture, path),
            answer(fine) if kind == SENTENCE else place,
            place if kind == SENTENCE else answer(fine),
            answer(check_whole, "Steps", count, 0, MOST_STEPS),
            answer(fine),
            answer(check_seed, first_seed),
        ]

    event = run.click(
        on_run,
        [picture, start, sentence, steps, tokens, seed],
        [status, curve, images, words, files, *shown, embedding],
        validator=check,
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="invert",
    )

    def on_stop(request: gr.Request) -> None:
        job = running.get(request.session_hash)
        if job is None:
            gr.Info("Nothing is running here.")
        else:
            job.stopping.set()

    stop.click(on_stop, queue=False, api_name="stop")
    cancel.click(lambda: "", None, status, cancels=[event], queue=False, api_visibility="private")
    start.change(
        lambda kind: (gr.update(visible=kind == SENTENCE), steps_of(models, kind)),
        start,
        [sentence, steps],
        queue=False,
        api_visibility="private",
    )


def starts(models: Models) -> list[str]:
    """Where an inversion may begin here, the one that needs fewest steps last."""
    found = [SENTENCE]
    if models.captioner is not None:
        found.append(CAPTION)
    try:
        _ = models.pipeline.learned_starts().amortised
    except ValueError:
        return found
    return [*found, LEARNED]


def steps_of(models: Models, kind: str) -> int:
    """Steps that suit a start."""
    where = {CAPTION: "caption", LEARNED: "amortised"}.get(kind, "a room")
    return run_settings(models, where, None, False, 0).inversion.steps


def redraw_part(models: Models, embedding: gr.State) -> None:
    """Lays out what draws an embedding again."""
    with gr.Row():
        with gr.Column():
            seed = seed_field("Seed of another drawing")
            run = gr.Button("Draw again with another seed")
        with gr.Column():
            image = image_shown("Drawn again from what was found", 200)
            python = gr.Textbox(
                label="As Python", interactive=False, buttons=["copy"], elem_classes="code"
            )

    def redraw(conditioning: Conditioning, number: int) -> Generator[Any, None, None]:
        def work(job: Job) -> Path:
            file = job.folder / "again.png"
            write_image(file, models.pipeline.generate(conditioning, [number])[0])
            return file

        yield from models.worker.run(
            work, lambda file: (str(file), redrawn_as_python(models, number))
        )

    def check_found(conditioning: Conditioning | None) -> None:
        if conditioning is None:
            raise ValueError("Invert a picture first.")

    def check(conditioning: Conditioning | None, number: float | None) -> list[dict[str, Any]]:
        def both() -> None:
            check_found(conditioning)
            check_seed(number)

        return [answer(fine), answer(both)]

    run.click(
        redraw,
        [embedding, seed],
        [image, python],
        validator=check,
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="redraw",
    )
