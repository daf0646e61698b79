"""A captioner on fake tensors of a GPU; torch raises where one of the CPU slips in."""

import numpy as np
import pytest
import torch
from batches import empty_batch
from fake_gpu import fake_gpu, move_without_data
from torch import Tensor

from invcap.captioning.model import InvertibleCaptioner
from invcap.captioning.objectives import OBJECTIVES
from invcap.captioning.scaler import Scaler
from invcap.captioning.similarity import similarities
from invcap.captioning.train import TrainingModule, TrainSettings
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import AutoencoderImages
from invcap_ext import InvertibleNetwork

FEATURES = 384


class FakeSentences:
    """Embeddings of sentences, without a sentence encoder."""

    features = FEATURES
    name = "fake"

    def encode(self, sentences: list[str]) -> Tensor:
        return torch.empty(len(sentences), FEATURES, device="cuda")


@pytest.fixture
def gpu():
    with fake_gpu():
        yield


def make_captioner() -> InvertibleCaptioner:
    autoencoder = ConvAutoencoder(channels=8, blocks=1)
    network = InvertibleNetwork(FEATURES, 3, negative_slope=0.5)
    for module in (autoencoder, network):
        move_without_data(module, "cuda")
    encoder = AutoencoderImages(autoencoder, (32, 32))
    scalers = [Scaler(*torch.empty(2, FEATURES, device="cuda")) for _ in range(2)]
    candidates = torch.empty(5, FEATURES)
    return InvertibleCaptioner(
        network, encoder, FakeSentences(), *scalers, ["a", "b", "c", "d", "e"], candidates
    )


@pytest.mark.usefixtures("gpu")
def test_images_become_embeddings_and_sentences_become_images_on_the_gpu():
    captioner = make_captioner()
    assert captioner.device.type == "cuda"
    x = captioner.latent_scaler(captioner.image_encoder.encode(np.zeros((3, 32, 32, 3), np.uint8)))
    found = captioner.network(x)
    e = captioner.embedding_scaler(captioner.sentence_encoder.encode(["a", "b"]))
    drawn = captioner.latent_scaler.inverse(captioner.network.inverse(e))
    decoded = captioner.image_encoder.autoencoder.decode(drawn.view(2, 6, 8, 8)).sample
    targets = captioner.embedding_scaler(captioner.candidate_embeddings.to(found))
    nearest = similarities(found, targets).topk(2)
    for tensor in (found, decoded, nearest.values):
        assert tensor.device.type == "cuda"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_computed_on_the_gpu(objective):
    # Other terms are tested on "meta": torch 2.13 without CUDA crashes now and then in fake tensors
    # of a GPU that they make.
    settings = TrainSettings(objective=objective, depth=2, noise=0.1)
    module = TrainingModule(FEATURES, settings)
    move_without_data(module, "cuda")
    losses = module.losses(settings, empty_batch("cuda", FEATURES, FEATURES))
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
