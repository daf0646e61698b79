"""A sentence to pictures."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gradio as gr

from invcap.app.commands import as_call, as_command, shown_as
from invcap.app.fields import answer, check_seed, check_whole, seed_field
from invcap.app.jobs import Job
from invcap.app.models import Models
from invcap.captioning import InvertibleCaptioner
from invcap.captioning.drawings import write_drawings

MOST = 16
EXAMPLES = (
    "a large red square in the center of the image, black background",
    "a small blue star on the left of the image, yellow background",
    "a medium green circle at the top of the image, white background",
)


def draw_tab(models: Models, captioner: InvertibleCaptioner) -> None:
    """Lays out the tab."""
    gr.Markdown("Draws pictures of a sentence, by running the captioner's network backwards.")
    with gr.Row():
        with gr.Column():
            sentence = gr.Textbox(label="Sentence", placeholder=EXAMPLES[0])
            gr.Examples([[example] for example in EXAMPLES], [sentence], label="Examples")
            varied = can_sample(captioner)
            samples = gr.Slider(1, MOST, 4 if varied else 1, step=1, precision=0, label="Pictures")
            temperature = gr.Slider(
                0,
                2,
                0.8 if varied else 0,
                step=0.05,
                label="Temperature",
                info="0: the expected picture. Above: what the sentence leaves open varies.",
            )
            seed = seed_field()
            with gr.Row():
                run = gr.Button("Draw", variant="primary")
                cancel = gr.Button("Cancel")
        with gr.Column():
            gallery = gr.Gallery(
                label="Pictures",
                format="png",
                columns=4,
                object_fit="contain",
                buttons=["download", "fullscreen"],
                elem_classes="shown",
            )
            shown = shown_as()

    def draw(text: str, count: int, heat: float, start: int) -> Generator[Any, None, None]:
        def work(job: Job) -> list[str]:
            rows = write_drawings(captioner, [text], job.folder, count, heat, start)
            return [row["picture"] for row in rows]

        def give(paths: list[str]) -> tuple[Any, ...]:
            return paths, *as_text(models, text, count, heat, start)

        yield from models.worker.run(work, give)

    def check(text: str, count: int, heat: float, start: float | None) -> list[dict[str, Any]]:
        return [
            answer(check_sentence, text),
            answer(check_whole, "Pictures", count, 1, MOST),
            answer(captioner.check_sampling, heat, 1),
            answer(check_seed, start),
        ]

    event = run.click(
        draw,
        [sentence, samples, temperature, seed],
        [gallery, *shown],
        validator=check,
        concurrency_id=models.queue,
        concurrency_limit=1,
        api_name="draw",
    )
    cancel.click(None, cancels=[event])


def check_sentence(text: str) -> None:
    """Raises ValueError unless there are words."""
    if not text.strip():
        raise ValueError("Write a sentence first.")


def can_sample(captioner: InvertibleCaptioner) -> bool:
    """Whether a captioner can draw more than one picture of a sentence."""
    try:
        captioner.check_sampling(1.0, 1)
    except ValueError:
        return False
    return True


def as_text(models: Models, text: str, count: int, heat: float, seed: int) -> tuple[str, str]:
    """The command and the Python of a result."""
    folder, device = models.names["captioner"], models.names["device"]
    options = {
        "output": "pictures",
        "samples": count,
        "temperature": heat,
        "seed": seed,
        "device": device,
    }
    load = as_call("InvertibleCaptioner.from_pretrained", folder)
    load += f".to({device!r})" if device else ""
    python = (
        "from pathlib import Path\n\n"
        "from invcap import InvertibleCaptioner\n"
        "from invcap.captioning.drawings import write_drawings\n\n"
        f"captioner = {load}\n"
        f"write_drawings(captioner, [{text!r}], Path('pictures'), "
        f"samples={count}, temperature={heat}, seed={seed})"
    )
    return as_command("generate", [folder, text], options), python
