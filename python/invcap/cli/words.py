"""Captioners, proposers and sentences for the prompt commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def in_words(row: dict[str, Any]) -> str:
    """A result's prompt in words with its bound, for standard output; empty without one."""
    if "prompt" not in row:
        return ""
    bound, error = row["prompt_log_likelihood"], row["prompt_standard_error"]
    return f"\t{row['prompt']}\tbound {bound:.4f} ± {error:.4f}"


def load_captioner(folder: Path | None, device: Any) -> Any:
    """The captioner in a folder; None without a folder."""
    if folder is None:
        return None
    from invcap.captioning import InvertibleCaptioner

    return InvertibleCaptioner.from_pretrained(folder).to(device)


def load_proposer(name: str | None, prompt: str, device: Any) -> Any:
    """The proposer with a name; None without a name."""
    if name is None:
        return None
    from invcap.prompt_inversion.proposer import Proposer

    return Proposer(name, prompt).to(device)


def load_bank(model: Any, data: str | None, file: Path | None, cache: Path, processes: Any) -> Any:
    """A bank of the captions of some data and of the lines of a file."""
    from invcap.data import load_examples
    from invcap.prompt_inversion.bank import make_bank

    sentences = [] if file is None else read_sentences(file)
    if data is not None:
        for example in load_examples(data).examples:
            sentences += example.captions
    return make_bank(model, sentences, cache, processes)


def read_sentences(file: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ValueError: it is not a text file, or has no sentence.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a text file of sentences: {error}") from None
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise ValueError(f"{file}: expected a sentence on each line, got none")
    return sentences
