"""Input fields of the page, and checks of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from invcap.data.images import FORMATS, open_image
from invcap.data.settings import MOST_PIXELS

MOST_BYTES = 20 * 2**20
MOST_SEED = 2**53  # whole numbers that a browser can hold
LONGEST = 300
FINE = gr.validate(True, "")


def picture_field(examples: Sequence[str], folder: Path) -> gr.Image:
    """A field for a picture, with examples under it.

    It hands on the path of the file as it came, which is decoded as everywhere else.

    Args:
        folder: the page's own, out of which no file is read, whatever a program says that it sent.
    """

    def path_of(payload: Any) -> str | None:
        if payload is None:
            return None
        if not Path(payload.path).resolve().is_relative_to(folder.resolve()):
            raise gr.Error("This file was not uploaded.", print_exception=False)
        return payload.path

    label = "Picture: drop, paste or choose one"
    picture = gr.Image(label=label, sources=["upload", "clipboard"], type="filepath", height=280)
    picture.preprocess = path_of
    gr.Examples([[example] for example in examples], [picture], label="Examples")
    return picture


def seed_field(label: str = "Seed") -> gr.Number:
    """A field for a seed."""
    return gr.Number(0, label=label, precision=0)


def run_buttons(label: str, *others: str) -> list[gr.Button]:
    """A button that starts a job, others, and last one that cancels it."""
    with gr.Row():
        run = gr.Button(label, variant="primary", size="md", scale=1 if others else 2)
        rest = (gr.Button(other, size="md", min_width=120) for other in (*others, "Cancel"))
        return [run, *rest]


def image_shown(label: str, height: int | None = None) -> gr.Image:
    """A component for an image of a result."""
    return gr.Image(
        label=label,
        alt_text=label,
        interactive=False,
        format="png",
        height=height,
        buttons=["download", "fullscreen"],
        elem_classes="shown" if height is None else "shown enlarged",
    )


def files_shown(label: str) -> gr.File:
    """A component for files to download."""
    return gr.File(label=label, interactive=False, file_count="multiple")


def code_shown(*labels: str) -> list[gr.Code]:
    """Places for what gives the same result, closed until they are wanted."""
    with gr.Accordion("The same, to run elsewhere", open=False):
        return [
            gr.Code(
                label=label,
                lines=1,
                interactive=False,
                wrap_lines=True,
                show_line_numbers=False,
                elem_classes=label.replace(" ", "-").lower(),
            )
            for label in labels or ("As a command", "As Python")
        ]


def answer(check: Callable[..., object], *arguments: object) -> dict[str, Any]:
    """What a validator says of a field: nothing, or the error that a check of it raised."""
    try:
        check(*arguments)
    except (ValueError, OSError) as error:
        message = str(error)
        return gr.validate(False, message if len(message) <= LONGEST else message[:LONGEST] + "…")
    return FINE


def check_picture(path: str | None) -> None:
    """Raises ValueError unless a file is a picture that may be used."""
    if path is None:
        raise ValueError("Choose a picture first.")
    too_large = f"The picture is too large: at most {MOST_PIXELS:,} pixels can be used."
    try:
        with Image.open(path, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
        if pixels > MOST_PIXELS:
            raise ValueError(too_large)
        open_image(Path(path))
    except Image.DecompressionBombError:
        raise ValueError(too_large) from None
    except OSError:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"This is not a picture that can be read. Expected {kinds}.") from None


def check_sentence(text: str) -> None:
    """Raises ValueError for a text without words."""
    if not text.strip():
        raise ValueError("Write a sentence first.")


def check_seed(seed: float | None) -> None:
    """Raises ValueError unless a seed can be used."""
    check_whole("The seed", seed, 0, MOST_SEED - 1)


def check_whole(name: str, number: float | None, least: int, most: int) -> None:
    """Raises ValueError unless a number is within limits."""
    if number is None or not least <= number <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {number}.")
