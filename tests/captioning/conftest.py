import io

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from invcap.captioning import InvertibleCaptioner
from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.data import decode_images
from invcap.data.example import Example
from invcap.data.shapes import Scene, draw, scenes
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import AutoencoderImages
from invcap.encoders.sentences import SentenceEncoder
from invcap_ext import InvertibleNetwork

IMAGES = 32


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def some_scenes() -> list[Scene]:
    chosen = list(scenes())
    return chosen[:: len(chosen) // IMAGES][:IMAGES]


@pytest.fixture(scope="session")
def images(some_scenes) -> list[Image.Image]:
    return [draw(scene) for scene in some_scenes]


@pytest.fixture(scope="session")
def sentences() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(scope="session")
def encoder() -> AutoencoderImages:
    torch.manual_seed(0)
    return AutoencoderImages(ConvAutoencoder(latent_channels=6, channels=8, blocks=1), (32, 32))


@pytest.fixture(scope="session")
def pairs(some_scenes, images, encoder, sentences) -> Pairs:
    captions = [scene.caption() for scene in some_scenes]
    examples = [Example("", (), "", lambda image=image: image) for image in images]
    pixels, _, _ = decode_images(examples, (32, 32))
    return Pairs(
        names=captions,
        latents=encoder.encode(pixels),
        captions=captions,
        embeddings=sentences.encode(captions),
        image=torch.arange(IMAGES),
        caption=torch.arange(IMAGES),
        pngs=[png(image) for image in images],
    )


@pytest.fixture
def captioner(pairs, encoder, sentences) -> InvertibleCaptioner:
    torch.manual_seed(0)
    return InvertibleCaptioner(
        InvertibleNetwork(384, 3, negative_slope=0.5),
        encoder,
        sentences,
        Scaler.of(pairs.latents),
        Scaler.of(pairs.embeddings),
        pairs.captions,
        pairs.embeddings,
    )


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
