import numpy as np
import pytest
import torch

from invcap.captioning import InvertibleCaptioner
from invcap.captioning.model import Standardiser
from invcap.captioning.pairs import Pairs
from invcap.data.shapes import Scene, draw, scenes
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import PictureEncoder
from invcap.encoders.sentences import SentenceEncoder
from invcap_ext import InvertibleNetwork

PICTURES = 48


@pytest.fixture(scope="session")
def some_scenes() -> list[Scene]:
    chosen = list(scenes())
    return chosen[:: len(chosen) // PICTURES][:PICTURES]


@pytest.fixture(scope="session")
def sentences() -> SentenceEncoder:
    return SentenceEncoder()


@pytest.fixture(scope="session")
def pictures() -> PictureEncoder:
    torch.manual_seed(0)
    return PictureEncoder(ConvAutoencoder(latent_channels=6, channels=8, blocks=1), (32, 32))


@pytest.fixture(scope="session")
def pairs(some_scenes, pictures, sentences) -> Pairs:
    pixels = np.stack([np.asarray(draw(scene)) for scene in some_scenes])
    captions = [scene.caption() for scene in some_scenes]
    return Pairs(
        names=captions,
        pixels=pixels,
        latents=pictures.encode(pixels),
        captions=captions,
        embeddings=sentences.encode(captions),
        picture=torch.arange(PICTURES),
        caption=torch.arange(PICTURES),
    )


@pytest.fixture
def captioner(pairs, pictures, sentences) -> InvertibleCaptioner:
    torch.manual_seed(0)
    return InvertibleCaptioner(
        InvertibleNetwork(384, 3, negative_slope=0.5),
        pictures,
        sentences,
        Standardiser.of(pairs.latents),
        Standardiser.of(pairs.embeddings),
        pairs.captions,
        pairs.embeddings,
    )
