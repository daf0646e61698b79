"""The tab Invert: finds the prompt that most likely made a picture, with live progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from invcap.app.fields import (
    FINE,
    answer,
    check_picture,
    check_seed,
    check_whole,
    code_shown,
    files_shown,
    image_shown,
    picture_field,
    run_buttons,
    seed_field,
)
from invcap.app.inversion import (
    as_text,
    files_of,
    invert,
    redrawn_as_python,
    run_settings,
    summary,
    time_left,
)
from invcap.app.jobs import Job, connect
from invcap.app.models import Models
from invcap.diffusion.conditioning import Conditioning
from invcap.figures import write_image
from invcap.prompt_inversion import bulk
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
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples, models.folder)
            start = gr.Radio(choices, value=first, label="Start from")
            sentence = gr.Textbox("a room", label="Sentence", visible=first == SENTENCE)
            steps = gr.Number(steps_of(models, first), label="Steps", precision=0)
            tokens = gr.Checkbox(
                label="Optimize token vectors",
                info="Gives a textual-inversion file for diffusers; needs a start in words.",
            )
            seed = seed_field()
            run, stop, cancel = run_buttons("Invert the picture", "Stop, keep the best")
        with gr.Column():
            status = gr.Markdown()
            curve = image_shown("The bound, as it rises")
            images = image_shown("Drawn on the way, and the picture at the end of the row")
            words = gr.Textbox(label="In words", interactive=False)
            files = files_shown("Files to download")
            embedding = gr.State()
    code = code_shown()
    with gr.Row(visible=False) as again:
        redraw_part(models, embedding)

    def settings_of(kind: str, text: str, *rest: Any) -> bulk.RunSettings:
        return run_settings(models, start_of(kind, text), *rest)

    def work(job: Job, path: str, *asked: Any) -> list[Any]:
        settings = settings_of(*asked)
        steps = settings.inversion.steps
        row = invert(models, Path(path), settings, job)
        folder = Path(row["embedding"]).parent
        return [
            summary(row, job.step, steps),
            str(folder / "bounds.png"),
            str(folder / "strip.png"),
            row.get("prompt", NO_WORDS),
            files_of(folder),
            *as_text(models, Path(path).name, settings, job.step < steps),
            load_conditioning(Path(row["embedding"]), models.pipeline.model),
            gr.Row(visible=True),
        ]

    def show(job: Job, path: str, kind: str, text: str, count: int, *_: Any) -> list[Any]:
        seen, job.seen = job.seen, ()
        return [time_left(job, count), *seen]

    def check(
        path: str | None, kind: str, text: str, count: float, over_tokens: bool, number: float
    ) -> list[dict[str, Any]]:
        place = answer(settings_of, kind, text, None, over_tokens, 0)
        return [
            answer(check_picture, path),
            *((FINE, place) if kind == SENTENCE else (place, FINE)),
            answer(check_whole, "Steps", count, 0, MOST_STEPS),
            FINE,
            answer(check_seed, number),
        ]

    connect(
        models.worker,
        "invert",
        [run, cancel],
        [picture, start, sentence, steps, tokens, seed],
        [status, curve, images, words, files, *code, embedding, again],
        check,
        work,
        show,
    )

    def on_stop(request: gr.Request) -> None:
        if not models.worker.stop(request.session_hash):
            gr.Info("Nothing is running here.")

    stop.click(on_stop, queue=False, api_name="stop")
    start.change(
        lambda kind: (gr.update(visible=kind == SENTENCE), steps_of(models, kind)),
        start,
        [sentence, steps],
        queue=False,
        api_visibility="private",
    )


def starts(models: Models) -> list[str]:
    """The available starts of an inversion; the one that needs the fewest steps is last."""
    found = [SENTENCE]
    if models.captioner is not None:
        found.append(CAPTION)
    try:
        _ = models.pipeline.learned_starts().amortised
    except ValueError:
        return found
    return [*found, LEARNED]


def steps_of(models: Models, kind: str) -> int:
    """The default number of steps for a start."""
    return run_settings(models, start_of(kind), None, False, 0).inversion.steps


def start_of(kind: str, sentence: str = "a room") -> str:
    """A start's name in the command."""
    return {CAPTION: "caption", LEARNED: "amortised"}.get(kind, sentence)


def redraw_part(models: Models, embedding: gr.State) -> None:
    """Lays out the controls that draw an embedding with another seed."""
    with gr.Column():
        seed = seed_field("Seed of another drawing")
        buttons = run_buttons("Draw again with another seed")
    with gr.Column():
        status = gr.Markdown()
        image = image_shown("Drawn again from what was found", 260)
        code = code_shown("As Python")

    def work(job: Job, conditioning: Conditioning | None, number: int) -> list[Any]:
        if conditioning is None:
            raise ValueError("Invert a picture first.")
        file = job.folder / "again.png"
        write_image(file, models.pipeline.generate(conditioning, [number])[0])
        return ["", str(file), redrawn_as_python(models, number)]

    connect(
        models.worker,
        "redraw",
        buttons,
        [embedding, seed],
        [status, image, *code],
        lambda found, number: [FINE, answer(check_seed, number)],
        work,
    )
