"""The invertible captioner: one network between picture latents and sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invcap.captioning.compose import compositions
from invcap.captioning.pairs import save_autoencoder
from invcap.data import fit_picture
from invcap.data.pictures import open_picture, to_rgb
from invcap.encoders.images import PictureEncoder, check_features, load_autoencoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.files import read_json, read_tensors, write_json, write_tensors
from invcap_ext import InvertibleNetwork

FORMAT = 1
ROUNDS = 2
Picture = Image.Image | str | Path


@dataclass(frozen=True)
class Caption:
    """A sentence found for a picture.

    Attributes:
        text: the sentence.
        score: minus the mean squared distance between its embedding and the picture's, both
            standardised: 0 is exact, about -2 is what two unrelated sentences have.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Standardiser:
    """x -> (x - mean) / deviation, feature by feature; mean, deviation: (n,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Standardiser:
        """Takes the statistics of rows (N, n); a feature that never varies keeps its scale."""
        deviation = rows.std(0, correction=0)
        return cls(rows.mean(0), torch.where(deviation > 1e-6, deviation, 1.0))

    def __call__(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation

    def inverse(self, rows: Tensor) -> Tensor:
        return rows * self.deviation + self.mean


class InvertibleCaptioner:
    """Captions pictures, and runs the same weights backwards to draw pictures from sentences.

    Args:
        network: f, from standardised latents to standardised embeddings.
        pictures, sentences: the frozen encoders.
        latents, embeddings: their statistics on the training split.
        bank: sentences that `caption` chooses from.
        bank_embeddings: (len(bank), n), as `sentences` gives them.
        sigma: deviation of f(x) about the embedding, for sampling; 0 if it was not learned.

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.2.
    """

    def __init__(
        self,
        network: InvertibleNetwork,
        pictures: PictureEncoder,
        sentences: SentenceEncoder,
        latents: Standardiser,
        embeddings: Standardiser,
        bank: Sequence[str],
        bank_embeddings: Tensor,
        sigma: float = 0.0,
    ) -> None:
        check_features(pictures, sentences)
        self.network = network.eval().requires_grad_(False)
        self.pictures = pictures
        self.sentences = sentences
        self.latents = latents
        self.embeddings = embeddings
        self.sigma = sigma
        self.bank = list(bank)
        self.bank_embeddings = bank_embeddings

    def set_bank(self, captions: Sequence[str]) -> None:
        """Replaces the sentences that `caption` chooses from."""
        if not captions:
            raise ValueError("captions must hold at least one sentence, got none")
        self.bank = list(captions)
        self.bank_embeddings = self.sentences.encode(self.bank)

    def caption(self, images: Picture | Sequence[Picture], top_k: int = 1) -> list[list[Caption]]:
        """Finds the sentences of the bank nearest to each picture, best first.

        Args:
            images: pictures or paths, of any size: they are scaled and centre-cropped.
            top_k: how many sentences for each, at most the size of the bank.
        """
        if not 1 <= top_k <= len(self.bank):
            raise ValueError(f"top_k must be from 1 to {len(self.bank)}, got {top_k}")
        targets = self.embeddings(self.bank_embeddings)
        return _nearest(self.embed(images), self.bank, targets, top_k)

    def compose(
        self, images: Picture | Sequence[Picture], top_k: int = 1, near: int = 16, kept: int = 4
    ) -> list[list[Caption]]:
        """Finds sentences nearer to each picture than those of the bank, made of their parts.

        Args:
            images: as of `caption`.
            top_k: how many sentences for each at most; some may be the bank's own.
            near: sentences of the bank that parts are taken from.
            kept: of the best sentences so far, that parts are put into, twice.
        """
        found = []
        known = self.embeddings(self.bank_embeddings)
        for embedding in self.embed(images)[:, None]:
            (best,) = _nearest(embedding, self.bank, known, min(near, len(self.bank)))
            sources = [caption.text for caption in best]
            for _ in range(ROUNDS):
                texts = [caption.text for caption in best]
                texts = list(dict.fromkeys([*texts, *compositions(texts[:kept], sources)]))
                targets = self.embeddings(self.sentences.encode(texts))
                (best,) = _nearest(embedding, texts, targets, min(max(near, top_k), len(texts)))
            found.append(best[:top_k])
        return found

    def embed(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Maps pictures to standardised sentence embeddings, (P, n)."""
        return self.network(self.latents(self.pictures.encode(self._pixels(images))))

    def generate(
        self,
        texts: str | Sequence[str],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Image.Image]:
        """Draws a picture for each sentence, by the network's inverse.

        Args:
            texts: sentences.
            temperature: 0 inverts the embedding itself; above, embeddings are drawn about it with
                deviation temperature * sigma (objective "likelihood").
            generator: of those draws.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not all(text.strip() for text in texts):
            raise ValueError(f"texts must hold sentences, got {texts!r}")
        if temperature and not self.sigma:
            raise ValueError(
                f"temperature must be 0 for a model that learned no sigma (objective "
                f"'likelihood' learns one), got {temperature}"
            )
        e = self.embeddings(self.sentences.encode(texts))
        e = e + temperature * self.sigma * torch.randn(e.shape, generator=generator)
        return self.draw(self.network.inverse(e))

    def draw(self, x: Tensor) -> list[Image.Image]:
        """Decodes standardised latents, (N, n), to pictures."""
        return [Image.fromarray(p) for p in self.pictures.decode(self.latents.inverse(x))]

    def save_pretrained(self, folder: str | Path, **facts: Any) -> None:
        """Writes the model into a folder: safetensors and JSON, config.json last.

        Args:
            facts: what else config.json shall say, such as the training settings.
        """
        folder = Path(folder)
        save_autoencoder(self.pictures.autoencoder, folder / "autoencoder")
        write_json(folder / "captions.json", self.bank)
        write_tensors(folder / "captions.safetensors", {"embeddings": self.bank_embeddings.half()})
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for side, scale in (("latents", self.latents), ("embeddings", self.embeddings)):
            tensors |= {f"{side}.mean": scale.mean, f"{side}.deviation": scale.deviation}
        write_tensors(folder / "model.safetensors", tensors)
        config = {
            "format": FORMAT,
            "features": self.network.features,
            "depth": len(self.network.layers),
            "negative_slope": self.network.layers[0].negative_slope,
            "picture_size": list(self.pictures.size),
            "sentence_encoder": self.sentences.name,
            "sigma": self.sigma,
        }
        write_json(folder / "config.json", config | facts)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> InvertibleCaptioner:
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: a file is missing, broken or of another format; the message names it.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json")
        if config.get("format") != FORMAT:
            raise ValueError(
                f"{folder / 'config.json'}: expected format {FORMAT}, got {config.get('format')}"
            )
        tensors, _ = read_tensors(folder / "model.safetensors")
        network = InvertibleNetwork(
            config["features"], config["depth"], negative_slope=config["negative_slope"]
        )
        network.load_state_dict(
            {
                name.removeprefix("network."): value
                for name, value in tensors.items()
                if name.startswith("network.")
            }
        )
        return cls(
            network,
            PictureEncoder(
                load_autoencoder(str(folder / "autoencoder")), tuple(config["picture_size"])
            ),
            SentenceEncoder(config["sentence_encoder"]),
            Standardiser(tensors["latents.mean"], tensors["latents.deviation"]),
            Standardiser(tensors["embeddings.mean"], tensors["embeddings.deviation"]),
            read_json(folder / "captions.json"),
            read_tensors(folder / "captions.safetensors")[0]["embeddings"].float(),
            config["sigma"],
        )

    def _pixels(self, images: Picture | Sequence[Picture]) -> np.ndarray:
        images = [images] if isinstance(images, Image.Image | str | Path) else list(images)
        return np.stack([fit_picture(_open(image), self.pictures.size) for image in images])


def _open(image: Picture) -> Image.Image:
    return to_rgb(image) if isinstance(image, Image.Image) else open_picture(Path(image))


def _nearest(
    embeddings: Tensor, texts: Sequence[str], targets: Tensor, top_k: int
) -> list[list[Caption]]:
    found = squared_distances(embeddings, targets).topk(top_k, largest=False)
    return [
        [Caption(texts[i], -d) for d, i in zip(ds, indices, strict=True)]
        for ds, indices in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]


def squared_distances(queries: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distances of rows, (Q, n) and (T, n) to (Q, T)."""
    return torch.cdist(queries, targets).square() / queries.shape[-1]
