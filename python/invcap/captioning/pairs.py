"""Captioned images as latents and embeddings, and who belongs to whom."""

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
        pngs: the images as files, where they are kept.
        identity: of the numbers: other pairs have another one.
    """

    names: Sequence[str]
    latents: Rows
    captions: Sequence[str]
    embeddings: Rows
    image: Tensor
    caption: Tensor
    variants: int = 1
    pngs: Sequence[bytes | None] = ()
    identity: str = ""


def encode_captions(
    captions: Sequence[str],
    sentences: SentenceEncoder,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> ShardRows:
    """The embeddings of captions, (M, d), on disk, or those that were encoded before.

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
    sentences: SentenceEncoder,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> tuple[Pairs, Pairs]:
    """The training pairs, which stay on disk, and the held-out ones, which are in memory."""
    every = list(dict.fromkeys(caption for said in images.captions for caption in said))
    known = {caption: number for number, caption in enumerate(every)}
    embeddings = encode_captions(every, sentences, cache, accelerator, dtype)
    latents = images.rows()
    sides = [torch.from_numpy(np.flatnonzero(images.held_out == side)) for side in (False, True)]
    pngs = images.pngs() if len(sides[1]) else []
    found = []
    for side, chosen in zip(("train", "held out"), sides, strict=True):
        said = [images.captions[index] for index in chosen.tolist()]
        image = torch.arange(len(said)).repeat_interleave(torch.tensor([len(one) for one in said]))
        caption = torch.tensor([known[text] for one in said for text in one])
        used, caption = caption.unique(return_inverse=True)
        first = chosen * images.variants
        variants = torch.arange(images.variants if side == "train" else 1)
        found.append(
            Pairs(
                names=[images.names[index] for index in chosen.tolist()],
                latents=ChosenRows(latents, (first[:, None] + variants).flatten()),
                captions=[every[index] for index in used.tolist()],
                embeddings=ChosenRows(embeddings, used),
                image=image,
                caption=caption,
                variants=len(variants),
                pngs=[] if side == "train" else [pngs[index] for index in chosen.tolist()],
                identity=digest(images.identity, sentences.fingerprint, dtype, side),
            )
        )
    training, held_out = found
    return training, in_memory(held_out)


def in_memory(pairs: Pairs) -> Pairs:
    """The same pairs with their numbers as tensors."""
    latents = pairs.latents[torch.arange(len(pairs.latents))]
    embeddings = pairs.embeddings[torch.arange(len(pairs.embeddings))]
    return Pairs(**{**vars(pairs), "latents": latents, "embeddings": embeddings})
