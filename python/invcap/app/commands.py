"""The command and the Python that give what the page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import gradio as gr


def as_command(command: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
    """A command of `invcap` as a shell takes it.

    Args:
        arguments: those without a name, in their order.
        options: by name; True for a flag, None or False for what is not given.
    """
    words = ["invcap", command]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    given = [str(argument) for argument in arguments]
    if any(argument.startswith("-") for argument in given):
        words.append("--")
    return shlex.join([*words, *given])


def as_call(function: str, *arguments: object, **options: object) -> str:
    """A call in Python; None is left out, and a `Path` is written as text."""
    parts = [_written(argument) for argument in arguments]
    parts += [f"{name}={_written(v)}" for name, v in options.items() if v is not None]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= 88:
        return line
    return f"{function}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


class Code(str):
    """An argument of `as_call` that is Python already."""


def _written(value: object) -> str:
    if isinstance(value, Code):
        return value
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def shown_as() -> list[gr.Textbox]:
    """Two fields for a result's command and Python, closed until they are wanted."""
    with gr.Accordion("The same as a command, or as Python", open=False):
        return [
            gr.Textbox(
                label=label,
                lines=1,
                max_lines=20,
                interactive=False,
                buttons=["copy"],
                elem_classes="code",
            )
            for label in ("As a command", "As Python")
        ]
