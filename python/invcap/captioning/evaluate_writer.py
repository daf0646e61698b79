"""Measures newly written sentences beside the nearest candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.pairs import Pairs

WRITTEN = 1000


def evaluate_writer(
    model: InvertibleCaptioner, held_out: Pairs, found: Tensor, e: Tensor
) -> dict[str, Any]:
    """Measures written sentences for at most `WRITTEN` held-out images.

    Args:
        found: predicted coordinates of the images' captions, (P, k).
        e: coordinates of the captions, (M, k).

    Returns:
        "written" and "nearest", of the best written sentence and of the nearest candidate (the
        captioner's, so the training captions unless they were replaced): `bleu`, corpus BLEU from
        0 to 100 with all captions of an image as references, and `similarity`, the mean cosine
        between the sentence's embedding and the nearest of the image's own captions. "share_new":
        the share of written sentences that are no candidate.
    """
    count = min(len(found), WRITTEN)
    chosen = held_out.image < count
    image, caption = held_out.image[chosen], held_out.caption[chosen]
    references: list[list[str]] = [[] for _ in range(count)]
    for row, number in zip(image.tolist(), caption.tolist(), strict=True):
        references[row].append(held_out.captions[number])
    written, nearest = (
        [best[0].text for best in sentences]
        for sentences in (
            model.write_for(found[:count]),
            model.nearest_candidates(found[:count], 1),
        )
    )

    def measured(texts: Sequence[str]) -> dict[str, float]:
        said = model.embedding_scaler(model.sentence_encoder.encode(texts))
        similar = F.cosine_similarity(said[image.to(e.device)], e[caption.to(e.device)])
        best = torch.full((count,), -torch.inf, device=e.device)
        best = best.scatter_reduce(0, image.to(e.device), similar, "amax")
        return {"bleu": bleu(texts, references), "similarity": best.mean().item()}

    known = set(model.candidates)
    return {
        "written": measured(written),
        "nearest": measured(nearest),
        "share_new": sum(text not in known for text in written) / count,
    }


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """sacreBLEU's corpus BLEU, 0 to 100, of texts that may each have any number of references."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    return BLEU().corpus_score(list(texts), streams).score
