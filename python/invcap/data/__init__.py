"""Captioned images from anywhere, as examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from invcap.data.decode import decode_images, fit_image
from invcap.data.example import Example, Examples, Skipped, listing, log_skipped
from invcap.data.files import UNDERSTOOD, load_files
from invcap.data.split import split_by_group

__all__ = [
    "Example",
    "Examples",
    "Skipped",
    "decode_images",
    "fit_image",
    "load_examples",
    "log_skipped",
    "split_by_group",
]


def load_examples(spec: str, **options: Any) -> Examples:
    """Reads which captioned images `spec` names. No image is decoded yet.

    In this order:

    1. `shapes`: generated images (`./shapes` is a folder). Options: `wordings`, `drawings`.
    2. `hf:NAME_OR_PATH[:SPLIT]`: what Hugging Face `datasets` loads. Options: `picture_column`,
       `caption_columns`, `group_column`, `config`, `streaming`.
    3. tar shards as WebDataset has them: a file or a pattern that ends in `.tar`. They are read as
       a stream. Options: `picture_column`, `caption_columns`, `group_column`.
    4. a folder or file in a format of `invcap.data.files.FORMATS`, in the order given there.
       Option: `pictures`.

    An option of None counts as not given. What cannot be used (an image without a
    caption, a caption without an image, a name that leads out of the folder) is in `skipped`; of a
    stream, it is logged when the stream is read.

    Raises:
        ValueError: `spec` names nothing that is understood, an option does not apply to it, or
            nothing is left of what it names.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if spec == "shapes":
        from invcap.data.shapes import load_shapes

        result = _call(spec, load_shapes, given)
    elif spec.startswith("hf:"):
        from invcap.data.hugging_face import load_hugging_face

        result = _call(spec, load_hugging_face, given, spec.removeprefix("hf:"))
    elif spec.endswith(".tar"):
        from invcap.data.hugging_face import load_tar_shards

        result = _call(spec, load_tar_shards, given, spec)
    else:
        result = _call(spec, _load_path, given, spec)
    if isinstance(result.examples, Sequence) and not result.examples:
        raise ValueError(f"{spec}: nothing is left of it\n{listing(result.skipped, 5)}".rstrip())
    return result


def _load_path(spec: str, pictures: str | Path | None = None) -> Examples:
    path = Path(spec).expanduser()
    if not path.exists():
        raise ValueError(f"{spec}: no such folder or file; {_expected()}")
    result = load_files(path, Path(pictures).expanduser() if pictures is not None else None)
    if result is None:
        raise ValueError(f"{spec}: not in a format that is understood; {_expected()}")
    return result


def _expected() -> str:
    sources = ("shapes", *UNDERSTOOD, "tar shards (*.tar)", "hf:NAME_OR_PATH[:SPLIT]")
    return "expected one of\n" + "\n".join(f"  {source}" for source in sources)


def _call(
    spec: str, load: Callable[..., Examples], options: dict[str, Any], *source: str
) -> Examples:
    known = list(inspect.signature(load).parameters)[len(source) :]
    for name in options:
        if name not in known:
            raise ValueError(f"{name}: not an option of {spec}; expected {', '.join(known)}")
    return load(*source, **options)
