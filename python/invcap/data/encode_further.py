"""Encoded images, encoded further: what the first encoder gave is read from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator

from invcap.data.encode import Encode, EncodedImages
from invcap.data.shards import numbers, write_shards
from invcap.hashing import digest


def encode_further(
    images: EncodedImages,
    encode: Encode,
    width: int,
    encoder: str,
    cache: Path,
    accelerator: Accelerator,
    dtype: str = "float32",
) -> EncodedImages:
    """Encodes encoded images further, or finds the result of an earlier run.

    Args:
        encode: rows of `images`, (K, m), to rows (K, n).
        width: n.
        encoder: fingerprint of `encode`.
        cache: folder; the result gets a folder of its own in it.
        dtype: of the numbers on disk.
    """
    rows, pngs, variants = images.rows(), images.pngs(), torch.arange(images.variants)

    def table(part: Sequence[int]) -> pa.Table:
        encoded = encode(
            rows[(torch.tensor(part)[:, None] * len(variants) + variants).flatten()].numpy()
        )
        return pa.table(
            {
                "name": pa.array([images.names[n] for n in part], pa.string()),
                "captions": pa.array([images.captions[n] for n in part], pa.list_(pa.string())),
                "held_out": pa.array([bool(images.held_out[n]) for n in part], pa.bool_()),
                "encoded": numbers(encoded.reshape(len(part), -1).astype(dtype)),
                "png": pa.array([pngs.get(n) for n in part], pa.binary()),
            }
        )

    folder = cache / f"images-{digest(images.identity, encoder, dtype)}"
    shards = write_shards(range(len(images.names)), table, folder, accelerator, "latents")
    return EncodedImages(shards, width, images.variants)
