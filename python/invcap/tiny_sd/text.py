"""Text encoders: they learn what captions name, before a denoiser learns from them.

Attention in a new denoiser looks at all hidden states alike, so this is what their mean should say.
Trained together from the start, places were still drawn by chance after 4,000 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTokenizer

from invcap.data.shapes import COLOURS, PLACES, SHAPES, SIZES, Scene
from invcap.tiny_sd.captions import draw_wording
from invcap.tiny_sd.stage import Stage, token_ids, train_stage
from invcap.training.trainer import Batch

FACTORS = {
    "size": list(SIZES),
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "place": list(PLACES),
    "background": list(COLOURS),
}
CAPTIONS = 64


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """A CLIP text encoder of three layers and of one width throughout."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Reader(nn.Module):
    """Text encoders, and what linear maps read off their mean hidden state and pooled embedding.

    Args:
        text: maps token ids (N, n) to hidden states (N, n, d) and pooled embeddings (N, m), or None
            where it has none.
        tokenizer: of the text encoders.
    """

    def __init__(self, text: nn.Module, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text = text
        widths = [summary.shape[1] for summary in self.summaries(token_ids(tokenizer, [""]))]
        self.heads = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in FACTORS.items()})
            for width in widths
        )

    def summaries(self, ids: Tensor) -> list[Tensor]:
        """The mean hidden state, and the pooled embedding if there is one."""
        hidden, pooled = self.text(ids)
        return [hidden.mean(1)] if pooled is None else [hidden.mean(1), pooled]

    def logits(self, ids: Tensor) -> list[dict[str, Tensor]]:
        """For each summary, logits of each factor's values."""
        pairs = zip(self.heads, self.summaries(ids), strict=True)
        return [
            {name: head(summary) for name, head in cast(nn.ModuleDict, heads).items()}
            for heads, summary in pairs
        ]


def train_text(
    text: nn.Module, scenes: Sequence[Scene], tokenizer: CLIPTokenizer, stage: Stage
) -> nn.Module:
    """Teaches text encoders to tell which colour, shape, place, ... a caption names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        reader = Reader(text, tokenizer)

    def draw(generator: torch.Generator, part: slice) -> Batch:
        return draw_named(scenes, tokenizer, generator, part)

    return train_stage(reader, reader_loss, draw, CAPTIONS, stage).text


def draw_named(
    scenes: Sequence[Scene], tokenizer: CLIPTokenizer, generator: torch.Generator, part: slice
) -> Batch:
    """Draws captions of scenes, and for each factor what it is and whether a caption names it.

    Weights of captions are 0 where a factor is not named, and of mean 1 over the whole batch.
    """
    chosen = torch.randint(len(scenes), (CAPTIONS,), generator=generator).tolist()
    said = [(asdict(scenes[i]), draw_wording(generator)) for i in chosen]
    named = torch.tensor(
        [[f"{{{factor}}}" in wording for factor in FACTORS] for _, wording in said]
    )
    values = [[names.index(scene[f]) for f, names in FACTORS.items()] for scene, _ in said]
    return {
        "ids": token_ids(tokenizer, [wording.format(**scene) for scene, wording in said[part]]),
        "values": torch.tensor(values)[part],
        "weights": (named / named.float().mean(0).clamp(min=1 / CAPTIONS))[part],
    }


def reader_loss(reader: Reader, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of each factor's value, over the captions that name it."""
    losses = dict.fromkeys(FACTORS, torch.zeros((), device=batch["ids"].device))
    for logits in reader.logits(batch["ids"]):
        for column, (factor, found) in enumerate(logits.items()):
            missed = F.cross_entropy(found, batch["values"][:, column], reduction="none")
            weighted = (batch["weights"][:, column] * missed).mean()
            losses[factor] = losses[factor] + weighted / len(FACTORS)
    return losses
