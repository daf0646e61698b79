"""Captioned images as pairs of latents and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor

from invcap.data.encode import EncodedImages
from invcap.data.shards import ChosenRows, Rows, ShardRows, numbers, write_shards
from invcap.encoders.sentences import SentenceEncoder
from invcap.hashing import digest

MOST_IN_MEMORY = 2**28


@dataclass(frozen=True)
class Pairs:
    """N images and M different captions of n numbers each, as the frozen encoders give them.

    Attributes:
        names: what reports call the images.
        latents: (N * variants, n), the variants of an image in a row, the image itself first.
        captions: M different sentences.
        embeddings: (M, n).
        image, caption: (P,) int64; pair p is image[p] with caption[p], sorted by image.
        variants: of each image.
        pngs: the held-out images as files.
        identity: differs for pairs of other numbers.
    """

    names: Sequence[str]
    latents: Rows
    captions: Sequence[str]
    embeddings: Rows
    image: Tensor
    caption: Tensor
    variants: int = 1
    pngs: Sequence[bytes] = ()
    identity: str = ""


def first_of_each(image: Tensor) -> Tensor:
    """Which pairs, (P,) bool, are the first of their image; `image` is sorted, as in `Pairs`."""
    return torch.cat([image.new_ones(1), image.diff()]).bool()


def encode_captions(
    captions: Sequence[str],
    sentences: SentenceEncoder,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> ShardRows:
    """The embeddings of captions, (M, d), on disk; those of an earlier run are reused.

    Args:
        dtype: of the numbers on disk, `float32` or `float16`.
    """
    folder = cache / f"captions-{digest(sentences.fingerprint, dtype, *captions)}"

    def table(part: Sequence[str]) -> pa.Table:
        embeddings = sentences.encode(part).cpu().numpy().astype(dtype)
        return pa.table({"embedding": numbers(embeddings)})

    shards = write_shards(captions, table, folder, accelerator, "captions")
    return ShardRows(shards, "embedding")


def make_pairs(
    images: EncodedImages,
    held_out: bool,
    sentences: SentenceEncoder,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> Pairs:
    """The held-out pairs, in memory, or the training ones with their variants.

    Latents or embeddings that take more than `MOST_IN_MEMORY` bytes stay on disk.

    Raises:
        ValueError: there are none.
    """
    chosen = np.flatnonzero(images.held_out == held_out).tolist()
    if not chosen:
        raise ValueError(
            f"held_out: no {'held-out' if held_out else 'training'} example among "
            f"{len(images.held_out)}; expected more groups, or another share or seed"
        )
    said = [images.captions[index] for index in chosen]
    captions = list(dict.fromkeys(caption for one in said for caption in one))
    known = {caption: number for number, caption in enumerate(captions)}
    embeddings = encode_captions(captions, sentences, cache, accelerator, dtype)
    variants = 1 if held_out else images.variants
    first = torch.tensor(chosen) * images.variants
    latents = ChosenRows(images.rows(), (first[:, None] + torch.arange(variants)).flatten())
    pngs = images.pngs() if held_out else {}
    return Pairs(
        names=[images.names[index] for index in chosen],
        latents=in_memory(latents) if held_out else in_memory_if_few(latents),
        captions=captions,
        embeddings=in_memory(embeddings) if held_out else in_memory_if_few(embeddings),
        image=torch.arange(len(said)).repeat_interleave(torch.tensor([len(one) for one in said])),
        caption=torch.tensor([known[caption] for one in said for caption in one]),
        variants=variants,
        pngs=[pngs[index] for index in chosen] if held_out else [],
        identity=digest(images.identity, embeddings.identity, str(held_out)),
    )


def in_memory_if_few(rows: Rows) -> Rows:
    """Loads rows into memory if they are few; else they stay on disk."""
    row = rows[torch.zeros(1, dtype=torch.int64)]
    return in_memory(rows) if len(rows) * row.nbytes <= MOST_IN_MEMORY else rows


def in_memory(rows: Rows) -> Tensor:
    """All rows, (N, n)."""
    return rows[torch.arange(len(rows))]
