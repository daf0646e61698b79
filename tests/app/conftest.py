"""A served page with tiny random models, and a browser that reaches nothing else."""

import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forks import start
from playwright.sync_api import Browser, sync_playwright
from random_pipeline import make_pipeline
from visits import REFUSED, Site, Visit, run_offline

from invcap.captioning import InvertibleCaptioner
from invcap.captioning.run import coordinates
from invcap.captioning.scaler import Scaler
from invcap.data.shapes import Scene, draw
from invcap.encoders.autoencoder import ConvAutoencoder
from invcap.encoders.images import AutoencoderImages
from invcap.encoders.sentences import SentenceEncoder
from invcap_ext import InvertibleNetwork

CHROMIUM = shutil.which("chromium")
SENTENCES = ["a large red square", "a blue star", "a green <b>circle</b>", "a pink heart", "a room"]
STARTS_WITHIN = 300


@pytest.fixture(scope="session")
def captioner_folder(tmp_path_factory) -> Path:
    """A captioner of random weights whose latents have a residual to sample."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("captioner")
    images = AutoencoderImages(ConvAutoencoder(latent_channels=8, channels=8, blocks=1), (32, 32))
    sentences = SentenceEncoder()
    embeddings = sentences.encode(SENTENCES)
    ones = Scaler(torch.zeros(images.features), torch.ones(images.features))
    InvertibleCaptioner(
        InvertibleNetwork(images.features, 2, negative_slope=0.5),
        images,
        sentences,
        ones,
        coordinates(embeddings, 384, images.features),
        SENTENCES,
        embeddings,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def site(captioner_folder, model_folder, tmp_path_factory) -> Iterator[Site]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("site") / "log"
    models = ("--captioner", captioner_folder, "--model", model_folder)
    arguments = ("app", *models, "--port", port)
    process = start(run_offline, arguments, log, log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, log)
        yield Site(address, captioner_folder, log)
    finally:
        process.terminate()
        process.join(20)
        process.kill()
    assert REFUSED not in log.read_text()


def wait_for(address: str, log: Path) -> None:
    due = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < due:
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the page does not answer:\n{log.read_text()}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site) -> Iterator[Visit]:
    made = Visit(browser, site)
    yield made
    made.close()


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "my red square.png"
    draw(Scene("large", "red", "square", "in the center", "black"), 64).save(path)
    return path
