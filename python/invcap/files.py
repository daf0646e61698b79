"""Atomic reading and writing of files: a file is complete or absent."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`, renamed to it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        allowed = temporary.stat().st_mode
        yield temporary
        temporary.chmod(allowed)  # safetensors gives its files to their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(*folders: Path) -> None:
    """Removes what a killed process, or safetensors in it, had begun to write into some folders."""
    for folder in folders:
        for unfinished in [*folder.glob(".*.tmp"), *folder.glob(".tmp*")]:
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes text, replacing the file at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, replacing the file at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: the file is missing or not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Writes tensors as safetensors, replacing the file at once; shared ones each by itself."""
    with replacing(path) as temporary:
        save_file(_separate(tensors), temporary, metadata)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, none in the memory of another."""
    found: dict[str, Tensor] = {}
    used = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        where = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if where in used else tensor
        used.add(where)
    return found


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and the metadata of a safetensors file.

    Raises:
        ValueError: the file is missing or not safetensors; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
