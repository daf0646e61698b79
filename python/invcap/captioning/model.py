"""The invertible captioner: one network between image latents and sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from PIL import Image
from torch import Tensor

from invcap.captioning.caption import Caption, captions, ranked
from invcap.captioning.card import ABOUT, make_card
from invcap.captioning.nearest import EXACT_UP_TO, NearestIndex, nearest
from invcap.captioning.objectives import widened
from invcap.captioning.refine import refine, refinement
from invcap.captioning.scaler import Scaler
from invcap.captioning.writer import Writer, check_writing
from invcap.data import fit_image
from invcap.data.images import ImageSource, as_images, open_image
from invcap.encoders.images import AutoencoderImages, load_autoencoder
from invcap.encoders.interface import ImageEncoder
from invcap.encoders.load import load_image_encoder
from invcap.encoders.sentences import SentenceEncoder
from invcap.figures import write_image
from invcap.files import read_json, read_tensors, write_json, write_tensors, write_text
from invcap.phrases import compositions
from invcap_ext import InvertibleNetwork

FORMAT = 1
SAMPLES = "samples.png"
IMAGE_ENCODER = "image_encoder"
WRITER = "writer"
INDEX = "captions.faiss"
ROUNDS = 2
BEAMS = 8


class InvertibleCaptioner(ModelHubMixin):
    """Captions images, and runs the same weights backwards to draw images from sentences.

    It is saved, loaded and pushed to the hub as `huggingface_hub.ModelHubMixin` says.

    Args:
        network: f, from standardized latents of n numbers to the caption's k coordinates, then a
            residual of n - k: what the image has and its caption does not say. It may be wider:
            then latents are padded with zeros, and so is what is inverted.
        image_encoder, sentence_encoder: the frozen encoders.
        latent_scaler: statistics of the training split's latents.
        embedding_scaler: from embeddings of d numbers to the k = min(n, d) coordinates.
        candidates: sentences that `caption` chooses from.
        candidate_embeddings: (len(candidates), d), as `sentence_encoder` gives them.
        sigma: deviation of f(x) about the embedding, for sampling; 0 if it was not learned.
        writer: writes new sentences for embeddings, if it was trained.
        variations: how many numbers of the residual the inverse was trained to draw by; 0 if for a
            residual of zeros alone.

    Attributes:
        about: what the model's card says, by the names in `ABOUT`.
        samples: drawn images, for the card.

    Source: "Image Generation from Image Captioning - Invertible Approach", section 3.2.
    """

    def __init__(
        self,
        network: InvertibleNetwork,
        image_encoder: ImageEncoder,
        sentence_encoder: SentenceEncoder,
        latent_scaler: Scaler,
        embedding_scaler: Scaler,
        candidates: Sequence[str],
        candidate_embeddings: Tensor,
        sigma: float = 0.0,
        writer: Writer | None = None,
        variations: int = 0,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.image_encoder = image_encoder
        self.sentence_encoder = sentence_encoder
        self.latent_scaler = latent_scaler
        self.embedding_scaler = embedding_scaler
        self.sigma = sigma
        self.candidates = list(candidates)
        self.candidate_embeddings = candidate_embeddings
        self.writer = None if writer is None else writer.requires_grad_(False)
        self.variations = variations
        self._index: NearestIndex | None = None
        self.about: dict[str, Any] = {}
        self.samples: Image.Image | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.network.layers[0].lu.device

    def to(self, device: torch.device | str) -> InvertibleCaptioner:
        """Moves the network and the encoders to a device, in place."""
        self.network.to(device)
        self.image_encoder.to(device)
        self.sentence_encoder.to(device)
        self.latent_scaler = self.latent_scaler.to(device)
        self.embedding_scaler = self.embedding_scaler.to(device)
        if self.writer is not None:
            self.writer.to(device)
        return self

    def set_candidates(self, captions: Sequence[str]) -> None:
        """Replaces the sentences that `caption` chooses from."""
        if not captions:
            raise ValueError("captions must hold at least one sentence, got none")
        self.candidates = list(captions)
        self.candidate_embeddings = self.sentence_encoder.encode(self.candidates).cpu()
        self._index = None

    def caption(
        self, images: ImageSource | Sequence[ImageSource], top_k: int = 1
    ) -> list[list[Caption]]:
        """Finds the candidates nearest to each image, best first.

        Args:
            images: images or paths, of any size: they are scaled and centre-cropped.
            top_k: how many sentences for each, at most the number of candidates.
        """
        if not 1 <= top_k <= len(self.candidates):
            raise ValueError(f"top_k must be from 1 to {len(self.candidates)}, got {top_k}")
        return self.nearest_candidates(self.embed(images), top_k)

    def write(
        self, images: ImageSource | Sequence[ImageSource], top_k: int = 1, beams: int = BEAMS
    ) -> list[list[Caption]]:
        """Writes sentences for each image that need not be candidates, nearest first.

        Args:
            images: see `caption`.
            top_k: the largest number of sentences for each; beams may end in the same one.
            beams: width of the beam search; its sentences are then ranked by their embeddings.

        Raises:
            ValueError: the captioner has no writer.
        """
        check_writing(self.writer, top_k, beams)
        return self.write_for(self.embed(images), top_k, beams)

    def write_for(
        self, embeddings: Tensor, top_k: int = 1, beams: int = BEAMS
    ) -> list[list[Caption]]:
        """As `write`, for coordinates of captions, (P, k)."""
        writer = check_writing(self.writer, top_k, beams)
        return ranked(embeddings, writer.write(embeddings, beams), self._embed_texts, top_k)

    def compose(
        self,
        images: ImageSource | Sequence[ImageSource],
        top_k: int = 1,
        near: int = 16,
        kept: int = 4,
    ) -> list[list[Caption]]:
        """Finds sentences nearer to each image than the candidates, made of their parts.

        Args:
            images: see `caption`.
            top_k: the largest number of sentences for each; some may be candidates.
            near: number of candidates that parts are taken from.
            kept: number of best sentences in which parts are replaced, in each of two rounds.
        """
        found = []
        for embedding in self.embed(images)[:, None]:
            (best,) = self.nearest_candidates(embedding, min(near, len(self.candidates)))
            sources = [caption.text for caption in best]
            for _ in range(ROUNDS):
                texts = [caption.text for caption in best]
                texts = [*texts, *compositions(texts[:kept], sources)]
                (best,) = ranked(embedding, [texts], self._embed_texts, max(near, top_k))
            found.append(best[:top_k])
        return found

    @torch.no_grad()
    def embed(self, images: ImageSource | Sequence[ImageSource]) -> Tensor:
        """Maps images to coordinates of their captions, (P, k)."""
        x = self.latent_scaler(self.image_encoder.encode(self._pixels(images)))
        return self.network(widened(x, self.network.features))[:, : self.embedding_scaler.features]

    @torch.no_grad()
    def generate(
        self,
        texts: str | Sequence[str],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        samples: int = 1,
        refine_steps: int | None = None,
    ) -> list[Image.Image]:
        """Draws images for each sentence, by the network's inverse.

        Args:
            texts: sentences.
            temperature: 0 draws the expected image. Above 0, variations (without them, residuals)
                are drawn with this standard deviation, and embeddings with temperature * sigma if
                the model learned sigma.
            generator: of those draws, on the CPU.
            samples: images of each sentence.
            refine_steps: see `draw`.

        Returns:
            len(texts) * samples images, those of a sentence in a row.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(text.strip() for text in texts):
            raise ValueError(f"texts must hold sentences, got {texts!r}")
        residual = self.check_sampling(temperature, samples)
        e = self._embed_texts(texts).repeat_interleave(samples, 0)
        noise = temperature * torch.randn(len(e), e.shape[1] + residual, generator=generator)
        about, beside = noise.to(e.device).tensor_split([e.shape[1]], 1)
        drawn = self.draw(e + self.sigma * about, beside, refine_steps)
        return [Image.fromarray(image) for image in drawn]

    def check_sampling(self, temperature: float, samples: int) -> int:
        """Returns how many residual numbers `generate` draws; ValueError if it cannot."""
        if not (isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        residual = self.variations or self.latent_scaler.features - self.embedding_scaler.features
        if temperature and not (self.sigma or residual):
            raise ValueError(
                "temperature must be 0 for a model that has nothing to sample: no variations, no "
                "residual (latents with more numbers than embeddings), no sigma (objective "
                f"'likelihood'), got {temperature}"
            )
        return residual

    @torch.no_grad()
    def redraw(self, images: ImageSource | Sequence[ImageSource]) -> list[Image.Image]:
        """Draws images again after a round trip: through the network and back."""
        x = self.latent_scaler(self.image_encoder.encode(self._pixels(images)))
        y = self.network(widened(x, self.network.features))[:, : x.shape[1]]
        about, beside = y.tensor_split([self.embedding_scaler.features], 1)
        return [Image.fromarray(image) for image in self.draw(about, beside, refine_steps=0)]

    def draw(
        self, e: Tensor, residual: Tensor | None = None, refine_steps: int | None = None
    ) -> np.ndarray:
        """Draws captions' coordinates, (N, k), as images, (N, H, W, 3) bytes.

        Args:
            residual: (N, at most n - k); None for zeros, which also follow it.
            refine_steps: see `invcap.captioning.refine`; None for the image encoder's own number.

        Raises:
            ValueError: there are steps, but no gradient goes through the image encoder.
        """
        width, encoder = self.network.features, self.image_encoder
        x = self.network.inverse(widened(e, width, residual))[:, : self.latent_scaler.features]
        project, steps = refinement(encoder, refine_steps)

        def caption(x: Tensor) -> Tensor:
            seen = self.latent_scaler(project(self.latent_scaler.inverse(x)))
            return self.network(widened(seen, width))[:, : e.shape[1]]

        x = refine(x, e, caption, steps)
        return encoder.decode(self.latent_scaler.inverse(x))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes safetensors and JSON, and the image of the card."""
        folder = save_directory
        self.image_encoder.save(folder / IMAGE_ENCODER)
        write_json(folder / "captions.json", self.candidates)
        embeddings = self.candidate_embeddings.half()
        write_tensors(folder / "captions.safetensors", {"embeddings": embeddings})
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for side, scaler in (
            ("latents", self.latent_scaler),
            ("embeddings", self.embedding_scaler),
        ):
            tensors |= {f"{side}.{name}": value for name, value in scaler.tensors().items()}
        write_tensors(folder / "model.safetensors", tensors)
        if len(self.candidates) > EXACT_UP_TO:
            self._candidate_index().save(folder / INDEX)
        if self.writer is not None:
            self.writer.save(folder / WRITER)
        if self.samples is not None:
            write_image(folder / SAMPLES, self.samples)
        self._write_config(folder)

    def _write_config(self, folder: Path) -> None:
        config = {
            "format": FORMAT,
            "features": self.network.features,
            "depth": len(self.network.layers),
            "negative_slope": self.network.layers[0].negative_slope,
            "sentence_encoder": self.sentence_encoder.name,
            "sigma": self.sigma,
            "writer": self.writer is not None,
            "variations": self.variations,
        }
        write_json(folder / "config.json", config | self.about)

    def generate_model_card(self, *arguments: Any, **options: Any) -> ModelCard:
        """The model card: its data, figures and drawn images, as far as they are known."""
        return make_card(self.about, SAMPLES if self.samples is not None else None)

    def write_card(self, folder: Path) -> None:
        """Writes config.json and README.md again, into a folder that has the model."""
        self._write_config(folder)
        write_text(folder / "README.md", str(self.generate_model_card()))

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> InvertibleCaptioner:
        """Reads what `save_pretrained` wrote.

        Args:
            name: folder, or name on the hub.
            options: of `huggingface_hub.ModelHubMixin.from_pretrained`.

        Raises:
            ValueError: there is no such model, or a file is missing, broken or of another format;
                the message names it.
        """
        try:
            return super().from_pretrained(name, **options)
        except (OSError, HFValidationError) as error:
            raise ValueError(
                f"{name}: neither a folder nor a model that loads from the hub: {error}"
            ) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> InvertibleCaptioner:
        kept = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        folder = Path(model_id)
        if not folder.is_dir():
            download = {name: options[name] for name in kept}
            folder = Path(snapshot_download(model_id, **download))
        config = read_json(folder / "config.json")
        if config.get("format") != FORMAT:
            raise ValueError(
                f"{folder / 'config.json'}: expected format {FORMAT}, got {config.get('format')}"
            )
        tensors, _ = read_tensors(folder / "model.safetensors")
        network = InvertibleNetwork(
            config["features"], config["depth"], negative_slope=config["negative_slope"]
        )
        network.load_state_dict(_part(tensors, "network"))
        loaded = cls(
            network,
            _load_image_encoder(folder, config),
            SentenceEncoder(config["sentence_encoder"]),
            Scaler(**_part(tensors, "latents")),
            Scaler(**_part(tensors, "embeddings")),
            read_json(folder / "captions.json"),
            read_tensors(folder / "captions.safetensors")[0]["embeddings"],
            config["sigma"],
            Writer.load(folder / WRITER) if config.get("writer") else None,
            config.get("variations", 0),
        )
        if len(loaded.candidates) > EXACT_UP_TO and (folder / INDEX).exists():
            loaded._index = NearestIndex.load(folder / INDEX)
        loaded.about = {name: config[name] for name in ABOUT if name in config}
        if (folder / SAMPLES).exists():
            loaded.samples = open_image(folder / SAMPLES)
        return loaded

    def nearest_candidates(self, embeddings: Tensor, top_k: int) -> list[list[Caption]]:
        """As `caption`, for coordinates of captions, (P, k)."""
        large = len(self.candidates) > EXACT_UP_TO
        search = self._candidate_index().nearest if large else nearest
        found = search(embeddings, self.candidate_embeddings, self.embedding_scaler, top_k)
        return captions(*found, self.candidates)

    def _candidate_index(self) -> NearestIndex:
        if self._index is None:
            self._index = NearestIndex.build(self.candidate_embeddings, self.embedding_scaler)
        return self._index

    def _embed_texts(self, texts: list[str]) -> Tensor:
        return self.embedding_scaler(self.sentence_encoder.encode(texts))

    def _pixels(self, images: ImageSource | Sequence[ImageSource]) -> np.ndarray:
        return np.stack([fit_image(image, self.image_encoder.size) for image in as_images(images)])


def _load_image_encoder(folder: Path, config: dict[str, Any]) -> ImageEncoder:
    """The captioner's image encoder; earlier ones have an autoencoder and its size in config."""
    if "picture_size" not in config:
        return load_image_encoder(folder / IMAGE_ENCODER)
    autoencoder = load_autoencoder(str(folder / "autoencoder"))
    return AutoencoderImages(autoencoder, tuple(config["picture_size"]))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
