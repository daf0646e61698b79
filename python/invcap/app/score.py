"""The tab Score: compares prompts by their likelihood to have made a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from invcap.app.commands import Code, as_call, as_command, as_program
from invcap.app.fields import (
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
from invcap.app.jobs import Job, connect
from invcap.app.models import Models
from invcap.figures import write_figure
from invcap.files import replacing, write_json
from invcap.prompt_inversion.report import scores_figure

MOST = 32
MOST_DRAWS = 4096
HEADERS = ["prompt", "bound", "± error", "to the best", "± error", "more than 2 errors"]
PROMPTS = """a red square, black background
a large red square in the center of the image, black background
a green circle
a room"""


def score_tab(models: Models, examples: list[str]) -> None:
    """Lays out the tab."""
    gr.Markdown(
        "Compares prompts by how likely they made a picture: a bound of log p(picture | prompt), "
        "in nats per latent number. Higher is better; bars are standard errors."
    )
    with gr.Row():
        with gr.Column():
            picture = picture_field(examples, models.folder)
            prompts = gr.Textbox(label="Prompts, one a line", lines=5, value=PROMPTS)
            draws = gr.Number(
                256,
                label="Noise samples",
                precision=0,
                info="More of them take longer and make the errors smaller.",
            )
            seed = seed_field()
            buttons = run_buttons("Score the prompts")
        with gr.Column():
            status = gr.Markdown()
            plot = image_shown("Bounds, best first")
            table = gr.Dataframe(
                headers=HEADERS,
                label="Table, best first",
                interactive=False,
                wrap=True,
                column_widths=[190, *[78] * 4, 90],
            )
            files = files_shown("Table to download")
    code = code_shown()

    def work(job: Job, path: str, text: str, count: int, start: int) -> list[Any]:
        given = lines_of(text)
        generator = torch.Generator().manual_seed(start)
        rows = models.pipeline.log_likelihood(path, given, count, generator).rows()
        shown, *tables = write_scores(job.folder, rows)
        name = Path(path).name
        return ["", shown, table_of(rows), tables, *as_text(models, name, given, count, start)]

    def show(job: Job, path: str, text: str, count: int, start: int) -> list[str]:
        model = models.pipeline.model
        batch = model.batch_size(*(side // model.pixels_per_latent for side in model.size))
        total = len(lines_of(text)) * -(-count // batch)
        return [f"Scoring: {job.evaluations / total:.0%}"]

    def check(
        path: str | None, text: str, count: float | None, start: float | None
    ) -> list[dict[str, Any]]:
        return [
            answer(check_picture, path),
            answer(check_prompts, models, text),
            answer(check_whole, "Noise samples", count, 2, MOST_DRAWS),
            answer(check_seed, start),
        ]

    connect(
        models.worker,
        "score",
        buttons,
        [picture, prompts, draws, seed],
        [status, plot, table, files, *code],
        check,
        work,
        show,
    )


def lines_of(text: str) -> list[str]:
    """The prompts in a text, each once."""
    return list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))


def check_prompts(models: Models, text: str) -> None:
    """Raises ValueError unless a text has prompts that can be scored."""
    prompts = lines_of(text)
    if not 1 <= len(prompts) <= MOST:
        raise ValueError(f"Write from 1 to {MOST} prompts, one a line; got {len(prompts)}.")
    for prompt in prompts:
        models.pipeline.model.check_prompt(prompt)


def best_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of scores, the highest bound first."""
    return sorted(rows, key=lambda row: -row["log_likelihood"])


def table_of(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Scores as the page's table shows them."""
    table = []
    for row in best_first(rows):
        prompt, *numbers = row.values()
        difference, error = numbers[2:]
        clear = "the best" if not difference else "yes" if abs(difference) > 2 * error else "no"
        table.append([prompt, *(f"{number:.4f}" for number in numbers), clear])
    return table


def write_scores(folder: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Writes a plot and CSV, best first, and JSON, in the order given; returns the files."""
    plot, table, listed = (folder / f"scores.{kind}" for kind in ("png", "csv", "json"))
    write_figure(plot, scores_figure(best_first(rows)))
    with replacing(table) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(best_first(rows))
    write_json(listed, list(rows))
    return [str(plot), str(table), str(listed)]


def as_text(
    models: Models, name: str, prompts: Sequence[str], draws: int, seed: int
) -> tuple[str, str]:
    """The command and the Python code for a result."""
    names = {key: models.names[key] for key in ("model", "device")}
    generator = Code(f"torch.Generator().manual_seed({seed})")
    call = as_call("pipeline.log_likelihood", name, list(prompts), draws=draws, generator=generator)
    python = as_program(
        ["import torch", "", "from invcap import PromptInversionPipeline"],
        models.load_pipeline(),
        f"found = {call}",
        "print(found.rows())",
    )
    return as_command("score", name, *prompts, draws=draws, seed=seed, **names), python
