"""The writer: a small causal language model that writes a new sentence for an embedding."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invcap.captioning.language import load_language
from invcap.files import read_tensors, replacing, write_tensors

PROJECTION = "projection.safetensors"
MOST_TOKENS = 64
SEQUENCES_AT_ONCE = 512
IGNORED = -100


class Writer(nn.Module):
    """A causal language model whose first inputs are an embedding, projected linearly.

    It is always in evaluation mode, also while it is trained: dropout would draw what a resumed
    run cannot draw again.

    Args:
        language: a causal language model of transformers, such as GPT2LMHeadModel.
        tokenizer: its tokenizer, with a token that ends a text.
        coordinates: k, numbers of an embedding.
        prefix: input vectors that an embedding becomes.

    Source: Mokady et al., "ClipCap: CLIP Prefix for Image Captioning" (2021).
    """

    def __init__(self, language: Any, tokenizer: Any, coordinates: int, prefix: int) -> None:
        super().__init__()
        self.language = language
        self.tokenizer = tokenizer
        self.width = language.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(coordinates, prefix * self.width)
        self.eval()

    def train(self, mode: bool = True) -> Writer:
        return super().train(False)

    def prefix(self, e: Tensor) -> Tensor:
        """The first inputs for embeddings (N, k), by their direction: (N, prefix, width)."""
        return self.projection(rescaled(e)).unflatten(1, (-1, self.width))

    def losses(self, e: Tensor, tokens: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The mean over rows of weight * sum of -log p(token | embedding, tokens before it).

        Args:
            e: embeddings, (N, k).
            tokens: (N, T) int64, filled up with `IGNORED`.
            weight: (N,).
        """
        inputs = self.language.get_input_embeddings()(tokens.clamp_min(0))
        logits = self.language(
            inputs_embeds=torch.cat([self.prefix(e), inputs], 1),
            use_cache=False,
            logits_to_keep=tokens.shape[1] + 1,
        ).logits[:, :-1]
        errors = F.cross_entropy(logits.float().mT, tokens, ignore_index=IGNORED, reduction="none")
        return {"writer": (weight * errors.sum(1)).mean()}

    @torch.no_grad()
    def write(self, e: Tensor, beams: int) -> list[list[str]]:
        """The likeliest sentences for each embedding, (N, k), by beam search: `beams` of each."""
        end = self.tokenizer.eos_token_id
        texts: list[str] = []
        for some in e.split(max(1, SEQUENCES_AT_ONCE // beams)):
            prefix = self.prefix(some)
            tokens = self.language.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64, device=e.device),
                max_new_tokens=MOST_TOKENS,
                num_beams=beams,
                num_return_sequences=beams,
                do_sample=False,
                early_stopping=True,
                eos_token_id=end,
                pad_token_id=end,
            )
            texts += self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        said = [" ".join(text.split()) for text in texts]
        return [said[first : first + beams] for first in range(0, len(said), beams)]

    def save(self, folder: Path) -> None:
        """Writes a folder of transformers, with the projection beside it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".tmp", f".{folder.name}-", folder.parent) as temporary:
            self.language.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            write_tensors(Path(temporary) / PROJECTION, self.projection.state_dict())
            folder.mkdir(exist_ok=True)
            for file in sorted(Path(temporary).iterdir()):
                with replacing(folder / file.name) as unfinished:
                    file.replace(unfinished)

    @classmethod
    def load(cls, folder: Path) -> Writer:
        """Reads what `save` wrote.

        Raises:
            ValueError: a file is missing or broken; the message names it.
        """
        tensors, _ = read_tensors(folder / PROJECTION)
        language, tokenizer = load_language(str(folder))
        width = language.get_input_embeddings().embedding_dim
        outputs, coordinates = tensors["weight"].shape
        writer = cls(language, tokenizer, coordinates, outputs // width)
        writer.projection.load_state_dict(tensors)
        return writer.requires_grad_(False)


def rescaled(e: Tensor) -> Tensor:
    """Embeddings (N, k) at the norm that unit variance gives: the cosine sees directions alone."""
    return F.normalize(e, dim=1) * e.shape[1] ** 0.5


def check_writing(writer: Writer | None, top_k: int, beams: int) -> Writer:
    """The writer; raises ValueError if there is none, or it cannot write as much."""
    if writer is None:
        raise ValueError(
            "write: the captioner has no writer; `invcap train --writer small --resume`, beside "
            "the options of its training, adds one"
        )
    if not 1 <= top_k <= beams:
        raise ValueError(f"top_k must be from 1 to beams, {beams}, got {top_k}")
    return writer
