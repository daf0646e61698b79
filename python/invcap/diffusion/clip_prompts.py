"""Families whose words are CLIP's: one vocabulary, read by one text encoder or by two."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.text import check_length, run_clip


class ClipPrompts(FrozenTextToImage):
    """Token vectors are those of all CLIP text encoders side by side.

    Attributes:
        clips: suffixes of the pipeline's tokenizers and CLIP text encoders, and the names that
            other programs have for these encoders.
    """

    word_marks: ClassVar[tuple[str, str]] = ("", "</w>")
    clips: ClassVar[dict[str, str]] = {"": "clip_l"}

    @property
    def token_parts(self) -> dict[str, int]:
        tables = zip(self.clips.values(), self._tables, strict=True)
        return {name: table.shape[1] for name, table in tables}

    @property
    def token_table(self) -> Tensor:
        tables = [table.float().to(self.device) for table in self._tables]
        return tables[0] if len(tables) == 1 else torch.cat(tables, 1)

    def check_prompt(self, prompt: str) -> None:
        check_length(prompt, self.tokenizer, self.tokenizer.model_max_length)

    def run_clips(self, vectors: Tensor) -> list[Any]:
        """What each CLIP text encoder makes of token vectors (N, n, d), hidden states included."""
        parts = vectors.split([*self.token_parts.values()], dim=-1)
        return [
            run_clip(
                getattr(self.pipeline, f"tokenizer{suffix}"),
                getattr(self.pipeline, f"text_encoder{suffix}"),
                part,
            )
            for suffix, part in zip(self.clips, parts, strict=True)
        ]

    @property
    def _tables(self) -> list[Tensor]:
        encoders = [getattr(self.pipeline, f"text_encoder{suffix}") for suffix in self.clips]
        return [encoder.get_input_embeddings().weight for encoder in encoders]
