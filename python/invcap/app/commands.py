"""The command and the Python code for a result of the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def as_command(command: str, *arguments: object, **options: object) -> str:
    """A command of `invcap`, quoted for a shell.

    Args:
        arguments: positional arguments, in their order.
        options: by name; True for a flag, None or False for options that are not given.
    """
    words = ["invcap", command]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    given = [str(argument) for argument in arguments]
    if any(argument.startswith("-") for argument in given):
        words.append("--")
    return shlex.join([*words, *given])


class Code(str):
    """An argument of `as_call` that is Python already."""


def as_call(function: str, *arguments: object, **options: object) -> str:
    """A call in Python; an option that is None is left out."""
    parts = [_written(argument) for argument in arguments]
    parts += [f"{name}={_written(v)}" for name, v in options.items() if v is not None]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= 88:
        return line
    return f"{function}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def as_program(imports: Sequence[str], *lines: str) -> str:
    """A program in Python."""
    return "\n".join([*imports, "", *lines])


def _written(value: object) -> str:
    return value if isinstance(value, Code) else repr(value)
