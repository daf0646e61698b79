"""The tab Draw: pictures of a sentence."""

from __future__ import annotations

from typing import Any

import gradio as gr

from invcap.app.commands import Code, as_call, as_command, as_program
from invcap.app.fields import (
    FINE,
    answer,
    check_seed,
    check_sentence,
    code_shown,
    run_buttons,
    seed_field,
)
from invcap.app.jobs import Job, connect
from invcap.app.models import Models
from invcap.captioning import InvertibleCaptioner
from invcap.captioning.drawings import write_drawings
from invcap.encoders.interface import Differentiable

EXAMPLES = (
    "a large red square in the center of the image, black background",
    "a small blue star on the left of the image, yellow background",
    "a medium green circle at the top of the image, white background",
)


def draw_tab(models: Models, captioner: InvertibleCaptioner) -> None:
    """Lays out the tab."""
    gr.Markdown("Draws pictures of a sentence, by running the captioner's network backwards.")
    encoder = captioner.image_encoder
    refines = isinstance(encoder, Differentiable)
    varied = bool(captioner.sigma or captioner.check_sampling(0.0, 1))
    with gr.Row():
        with gr.Column():
            sentence = gr.Textbox(label="Sentence", placeholder=EXAMPLES[0])
            gr.Examples(
                [[example] for example in EXAMPLES], [sentence], example_labels=list(EXAMPLES)
            )
            samples = gr.Slider(
                1, 16, 4 if varied else 1, step=1, precision=0, label="Pictures", visible=varied
            )
            temperature = gr.Slider(
                0,
                2,
                0.8 if varied else 0,
                step=0.05,
                label="Temperature",
                info="0: the expected picture. Above: what the sentence leaves open varies.",
                visible=varied,
            )
            refine_steps = gr.Slider(
                0,
                200 if refines else 0,
                encoder.refine_steps if isinstance(encoder, Differentiable) else 0,
                step=1,
                precision=0,
                label="Refinement steps",
                info="They make the picture be captioned as the sentence says.",
                visible=refines,
            )
            seed = seed_field()
            buttons = run_buttons("Draw")
        with gr.Column():
            status = gr.Markdown()
            gallery = gr.Gallery(
                label="Pictures",
                format="png",
                columns=4,
                object_fit="contain",
                buttons=["download", "fullscreen"],
                elem_classes="drawn",
            )
    code = code_shown()

    def work(job: Job, text: str, *numbers: Any) -> list[Any]:
        count, heat, steps, start = numbers
        rows = write_drawings(captioner, [text], job.folder, count, heat, start, steps)
        return ["", [row["picture"] for row in rows], *as_text(models, text, *numbers)]

    def check(text: str, count: int, heat: float, steps: int, start: float) -> list[dict[str, Any]]:
        return [
            answer(check_sentence, text),
            FINE,
            answer(captioner.check_sampling, heat, count),
            FINE,
            answer(check_seed, start),
        ]

    connect(
        models.worker,
        "draw",
        buttons,
        [sentence, samples, temperature, refine_steps, seed],
        [status, gallery, *code],
        check,
        work,
    )


def as_text(
    models: Models, text: str, count: int, heat: float, steps: int, seed: int
) -> tuple[str, str]:
    """The command and the Python code for a result."""
    options = {"samples": count, "temperature": heat, "refine_steps": steps, "seed": seed}
    python = as_program(
        [
            "from pathlib import Path",
            "",
            "from invcap import InvertibleCaptioner",
            "from invcap.captioning.drawings import write_drawings",
        ],
        models.load_captioner(),
        as_call("write_drawings", Code("captioner"), [text], Code("Path('pictures')"), **options),
    )
    folder, device = models.names["captioner"], models.names["device"]
    return (
        as_command("generate", folder, text, output="pictures", **options, device=device),
        python,
    )
