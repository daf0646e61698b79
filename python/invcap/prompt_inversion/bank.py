"""A bank of sentences that is searched by the hidden states of a text encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from math import prod
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize

from invcap.data.shards import SHARD_ROWS, Rows, ShardRows, blocks, numbers, write_shards
from invcap.diffusion.model import FrozenTextToImage, few
from invcap.hashing import digest
from invcap.phrases import Phrases, clauses

logger = logging.getLogger(__name__)
NUMBERS_AT_ONCE = 2**26
NUMBERS_OF_A_SHARD = 2**28


class SentenceBank:
    """Sentences and their clauses, with the hidden states of each.

    Args:
        sentences: complete sentences, as people wrote them.
        texts: the sentences, then their clauses, without duplicates.
        rows: (len(texts), n), the hidden states of each text.
    """

    def __init__(self, sentences: Sequence[str], texts: Sequence[str], rows: Rows) -> None:
        self.sentences, self.texts, self.rows = sentences, texts, rows

    @cached_property
    def phrases(self) -> Phrases:
        """Which phrases of the sentences can replace each other."""
        return Phrases(self.sentences)

    @cached_property
    def identity(self) -> str:
        """A hash of the sentences."""
        return digest(*self.sentences)

    def nearest(self, hidden: Tensor, top_k: int) -> tuple[list[str], list[str]]:
        """The sentences and the clauses nearest to hidden states by cosine, nearest first.

        Args:
            hidden: hidden states of one prompt.
            top_k: the largest number of each.

        Source: "Image captioning with text-to-image models", section 5.2.
        """
        query = normalize(hidden.float().flatten(), dim=0).cpu()
        size = max(1, NUMBERS_AT_ONCE // len(query))
        cosines = torch.cat([normalize(rows, dim=1) @ query for rows in blocks(self.rows, size)])
        sentences, clauses = cosines.tensor_split([len(self.sentences)])
        return self._best(sentences, 0, top_k), self._best(clauses, len(self.sentences), top_k)

    def _best(self, cosines: Tensor, first: int, top_k: int) -> list[str]:
        found = cosines.topk(min(top_k, len(cosines))).indices + first
        return [self.texts[number] for number in found.tolist()]


def make_bank(
    model: FrozenTextToImage,
    sentences: Iterable[str],
    cache: Path,
    accelerator: Accelerator | None = None,
) -> SentenceBank:
    """Encodes sentences and their clauses once and keeps their hidden states on disk.

    These take two bytes a number: 10 kB a text for tiny-sd, 118 kB for Stable Diffusion 1.
    Sentences that the model cannot read are left out, and their number is logged.

    Args:
        model: the model whose text encoder is used.
        sentences: the sentences.
        cache: folder for hidden states, which are computed once for each model and set of
            sentences.
        accelerator: the processes that share the work.

    Raises:
        ValueError: the model cannot read any of the sentences.
    """
    given = list(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))
    kept = [sentence for sentence in given if model.can_read(sentence)]
    if not kept:
        raise ValueError(f"sentences: expected some that the model can read, got {len(given)}")
    if len(kept) < len(given):
        logger.warning("skipped %d sentences that the model cannot read", len(given) - len(kept))
    texts = list(dict.fromkeys([*kept, *(part for one in kept for part in clauses(one))]))
    width = prod(model.conditioning_shapes[model.optimized])

    def table(part: Sequence[str]) -> pa.Table:
        rows = [encode(some) for some in few(part)]
        return pa.table({"hidden": numbers(torch.cat(rows).numpy())})

    def encode(part: Sequence[str]) -> Tensor:
        hidden = model.encode_prompts(part).tensors[model.optimized]
        return hidden.flatten(1).half().cpu()

    read = model.neutral.tensors[model.optimized].half().cpu()
    folder = cache / f"sentences-{digest(model.fingerprint, read, *texts)}"
    rows = min(SHARD_ROWS, max(1, NUMBERS_OF_A_SHARD // width))
    accelerator = accelerator or Accelerator()
    shards = write_shards(texts, table, folder, accelerator, "sentences", rows)
    model.release()
    return SentenceBank(kept, texts, ShardRows(shards, "hidden", width))
