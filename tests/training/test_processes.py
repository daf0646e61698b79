"""Training in two processes, and in half the precision, each in processes of their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from forks import fork, fork_two
from kills import KilledError, kill_at
from small_network import (
    FIFTY,
    Network,
    adamw,
    assert_near,
    diverge,
    draw,
    losses,
    make_network,
    muon_and_adamw,
    run,
)
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from invcap.data.shapes import draw as draw_scene
from invcap.data.shapes import scenes
from invcap.encoders.autoencoder import (
    AutoencoderSettings,
    ConvAutoencoder,
    to_unit_range,
    train_autoencoder,
)
from invcap.training.devices import start_processes
from invcap.training.trainer import Batch, Trained, TrainerSettings, TrainingDivergedError, train

PIXELS = torch.stack(
    [torch.from_numpy(np.array(draw_scene(scene, 16))) for scene in list(scenes())[::500]]
)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def train_plainly(path: Path, accelerator: Accelerator) -> Trained[ConvAutoencoder]:
    """An autoencoder trained by plain gradient steps, which do not enlarge rounding errors."""
    torch.manual_seed(0)
    model = ConvAutoencoder(latent_channels=2, channels=16)

    def draw_images(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(PIXELS), (9,), generator=generator)[part]
        return {"images": to_unit_range(PIXELS[chosen])}

    def error(model: ConvAutoencoder, batch: Batch) -> dict[str, Tensor]:
        decoded = model.decode(model.encode(batch["images"]).latents).sample
        return {"error": F.mse_loss(decoded, batch["images"])}

    optimizers = [torch.optim.SGD(model.parameters(), 0.5)]
    settings = TrainerSettings(50, 9)
    return train(model, error, draw_images, optimizers, settings, path, {}, accelerator)


def train_by_muon(path: Path, accelerator: Accelerator) -> ConvAutoencoder:
    settings = AutoencoderSettings(steps=50, batch_size=9)
    return train_autoencoder(PIXELS.flatten(1), (16, 16), 2, settings, path, {}, accelerator)


def in_two_processes(folder: Path) -> None:
    accelerator = start_processes("cpu")
    assert accelerator.num_processes == 2
    run(folder / "two", accelerator, FIFTY)
    parts = replace(FIFTY, gradient_accumulation=2)
    run(folder / "two in parts", accelerator, parts, adamw)
    train_plainly(folder / "plain", accelerator)
    train_by_muon(folder / "muon", accelerator)
    with pytest.raises(KilledError):
        run(folder / "begun", accelerator, FIFTY, before_draw=kill_at(30))
    with pytest.raises(ValueError, match="batch_size must be at least 12, processes x"):
        run(folder / "none", accelerator, replace(FIFTY, gradient_accumulation=6))
    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 2"):
        diverge(folder / "diverged", accelerator, 2)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    codes = fork_two(in_two_processes, folder, log=folder / "log")
    assert codes == [0, 0], (folder / "log").read_text()
    return folder


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(two_processes, accelerator, tmp_path):
    found = run(two_processes / "two", accelerator, FIFTY, before_draw=kill_at(1))
    assert_near(found, run(tmp_path / "one", accelerator, FIFTY))
    parts = replace(FIFTY, gradient_accumulation=2)
    found = run(two_processes / "two in parts", accelerator, parts, adamw, kill_at(1))
    assert_near(found, run(tmp_path / "adamw", accelerator, FIFTY, adamw))


@pytest.mark.slow
def test_one_process_resumes_what_two_began(two_processes, accelerator, tmp_path):
    kill_later = kill_at(31)
    resumed = run(two_processes / "begun", accelerator, FIFTY, before_draw=kill_later)
    assert_near(resumed, run(tmp_path / "one", accelerator, FIFTY))
    with pytest.raises(KilledError):
        kill_later()


@pytest.mark.slow
def test_two_processes_give_the_autoencoder_of_one(two_processes, accelerator, tmp_path):
    found, one = (
        train_plainly(folder / "plain", accelerator) for folder in (two_processes, tmp_path)
    )
    two_vector, vector = (parameters_to_vector(t.module.parameters()) for t in (found, one))
    assert torch.dist(two_vector, vector) <= 1e-6 * vector.norm()
    torch.testing.assert_close(
        dict(found.module.named_buffers()), dict(one.module.named_buffers()), rtol=1e-4, atol=1e-6
    )
    assert one.history["error"][-1] < 0.5 * one.history["error"][0]


@pytest.mark.slow
def test_two_processes_train_the_autoencoder_as_well_as_one(two_processes, accelerator, tmp_path):
    # Muon enlarges the smallest singular values of a gradient some 500 times, rounding with them.
    images = to_unit_range(PIXELS)
    decoded = []
    for folder in (two_processes, tmp_path):
        model = train_by_muon(folder / "muon", accelerator)
        with torch.no_grad():
            decoded.append(model.decode(model.encode(images).latents).sample)
    two, one = decoded
    assert torch.dist(two, one) < 0.01 * torch.dist(one, images)


def in_bfloat16(folder: Path) -> None:
    accelerator = start_processes("cpu", "bfloat16", "tensorboard", folder)
    accelerator.init_trackers("test")
    dtypes = set()

    def watched(network: Network, batch: Batch) -> dict[str, Tensor]:
        network.network.layers[0].register_forward_hook(
            lambda layer, inputs, output: dtypes.add((inputs[0].dtype, output.dtype))
        )
        return losses(network, batch)

    network = make_network()
    made = muon_and_adamw(network)
    trained = train(network, watched, draw, made, FIFTY, folder / "a", {}, accelerator)
    accelerator.end_training()
    assert dtypes == {(torch.bfloat16, torch.bfloat16)}
    weights = [*trained.module.parameters(), *trained.average.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32}
    error = trained.history["error"]
    assert sum(error[-5:]) < 0.8 * sum(error[:5])


@pytest.mark.slow
def test_bfloat16_reaches_operators_and_leaves_weights_in_float32_and_losses_are_logged(tmp_path):
    code = fork(in_bfloat16, tmp_path, log=tmp_path / "log")
    assert code == 0, (tmp_path / "log").read_text()
    assert [*(tmp_path / "tensorboard").rglob("events*")]
